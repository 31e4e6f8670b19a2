"""Embeddings of photos as a file of their own: parts that survive a kill, then one file."""

from storage.embeddings.files import SUFFIXES, beside, read_told, write_embeddings
from storage.embeddings.parts import LISTED, Parts, are_begun

__all__ = ["LISTED", "SUFFIXES", "Parts", "are_begun", "beside", "read_told", "write_embeddings"]
