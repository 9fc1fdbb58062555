"""A run's position in its plan, adaptive windows, refills, and metrics of the curriculum."""
