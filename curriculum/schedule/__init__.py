"""What a curriculum file says: stages, cells, weights, paces, budgets and feedback."""
