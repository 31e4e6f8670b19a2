"""Losses of embeddings, as pure functions of tensors."""

FEWEST_EMBEDDINGS = 3
"""That a loss of pairs can compare."""
