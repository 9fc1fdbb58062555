"""From annotations and recordings to batches: questions, shards, index, audio, prompts. Knows no loss and no weight."""
