"""A curriculum compiled to the rows of every batch."""
