"""Losses of embeddings, as pure functions of tensors."""
