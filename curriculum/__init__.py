"""What to train on, and when: contribution, votes, statistics, and the curriculum. Knows numpy and pyarrow only."""
