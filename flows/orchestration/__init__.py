"""The only room that knows Prefect, and Ray through it."""
