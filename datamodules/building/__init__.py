"""Building question sets from captions: questions, reasoning, checks, grades, what was dropped and why."""
