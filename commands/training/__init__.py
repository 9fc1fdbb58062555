"""The trainer's commands: their help, their configuration checked, a run continued, what it needs of a GPU."""
