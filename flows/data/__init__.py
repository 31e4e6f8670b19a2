"""Images and cached features, as arrays."""
