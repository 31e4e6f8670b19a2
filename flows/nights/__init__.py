"""A night: what is new, is it strange, who is trained, who is promoted, what is told."""
