"""A run, as its YAML file says it."""
