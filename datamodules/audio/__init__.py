"""Recordings as numbers."""
