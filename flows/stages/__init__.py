"""Each stage as an idempotent `ensure`: index, extract, map, train, evaluate, export."""
