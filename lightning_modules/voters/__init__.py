"""Models that vote: behind an OpenAI-compatible server, or loaded with transformers."""
