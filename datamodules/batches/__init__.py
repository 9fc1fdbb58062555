"""From rows of an index to batches: requests, conditions, and what happens to samples that cannot be read."""
