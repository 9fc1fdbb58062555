"""Models compared on held-out questions, with and without the audio."""
