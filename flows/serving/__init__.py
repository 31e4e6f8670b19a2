"""An exported student behind HTTP: what answers, and what it refuses."""
