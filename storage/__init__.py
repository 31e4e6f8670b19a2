"""Manifests, feature caches, artifacts and the catalogue of a root: arrays and bytes only."""
