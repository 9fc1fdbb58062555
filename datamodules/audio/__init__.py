"""Sound files, waves and log-mel features."""
