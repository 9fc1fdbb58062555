"""What to train on, and when: audio contribution, labels and statistics, and the curriculum. Imports no torch."""
