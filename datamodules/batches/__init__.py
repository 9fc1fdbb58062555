"""From rows of an index to the batches of a run."""
