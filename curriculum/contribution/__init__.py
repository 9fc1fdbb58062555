"""Votes, juries, labels and measures of what the audio contributes."""
