"""What happens around training: positions, exports, answer tables."""
