"""Curricula: the arms of the paper, and every kind of schedule."""
