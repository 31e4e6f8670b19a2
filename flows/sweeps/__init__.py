"""Many students of one cache: the list, a process for each, what is remembered of them."""
