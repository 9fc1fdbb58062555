"""Complete, runnable YAML files; their keys are constructor arguments."""
