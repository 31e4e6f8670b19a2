"""Where work runs: here, in child processes, wherever an executor sends it."""
