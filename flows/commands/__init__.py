"""The commands of `tintem` that have options of their own."""
