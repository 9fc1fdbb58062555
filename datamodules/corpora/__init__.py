"""Builders of question sets with a planted truth: generated sounds, which need no download, and spoken digits."""
