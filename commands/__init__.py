"""The command line: one file per command, and the rooms in which they are done."""
