"""Processes of a command: how one ends, what it prints kept in a file, signals passed on."""
