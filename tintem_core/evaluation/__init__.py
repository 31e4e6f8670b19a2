"""What is measured of embeddings, as pure functions of arrays."""
