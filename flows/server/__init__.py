"""Prefect's server, its pool and worker, and what is deployed there."""
