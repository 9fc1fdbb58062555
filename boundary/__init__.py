"""What comes from outside and what goes out: files, words, secrets and tables, each through one function."""
