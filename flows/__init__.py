"""Joins data, method and storage into runs; see CONTRIBUTING.md for the rooms."""
