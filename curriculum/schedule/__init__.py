"""How much of which cells a curriculum wants, as a file says it."""
