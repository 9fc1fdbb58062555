"""A model asked public benchmarks: the job, the answers, figures, comparisons, the table of a whole run."""
