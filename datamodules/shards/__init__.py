"""WebDataset tars: writing, checking, indexing, reading."""
