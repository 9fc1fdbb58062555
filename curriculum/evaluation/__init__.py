"""Models compared on held-out questions."""
