"""Arms that change a recipe: what they differ in, their runs, and the table of what they brought."""
