"""Questions, answers, prompts, and the files they come from."""
