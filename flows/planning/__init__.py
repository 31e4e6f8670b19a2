"""What a run will cost in bytes, objects and hours, before it starts."""
