"""Steps that depend on each other by their files: which of them run and why, their records, their processes."""
