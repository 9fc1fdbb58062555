"""How the processes of a run share the work and the weights."""
