"""Plans described and compared before anything is trained."""
