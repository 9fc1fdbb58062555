"""Readers of published annotation files: what people wrote about recordings, to build questions from."""
