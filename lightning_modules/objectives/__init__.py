"""Losses, advantages and rewards as pure functions; the denominator is an argument."""
