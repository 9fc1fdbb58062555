"""A job of voters: its file, whom it asks, and what is made of their answers."""
