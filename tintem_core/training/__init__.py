"""A student's training: its recipe, its state, its loop."""
