"""A student as a file that other runtimes open, and its check."""
