"""Voters: models asked a question with and without its audio, behind an OpenAI-compatible server or loaded here."""
