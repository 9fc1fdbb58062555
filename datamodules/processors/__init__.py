"""How a model family turns prompts and waves into tensors."""
