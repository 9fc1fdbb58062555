"""Builders of question sets: a generated one that needs no download, and spoken digits."""
