"""Many students of one cache, compared."""
