"""One function per stage: make sure that its result exists, compute only what is missing."""
