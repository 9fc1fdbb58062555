"""Training checkpoints, from which an interrupted run continues, and how they come safely onto the disk."""
