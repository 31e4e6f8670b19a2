"""Embeddings of photos as a file of their own: parts that survive a kill, then one file."""

from storage.embeddings.files import SUFFIXES, beside, write_embeddings
from storage.embeddings.parts import LISTED, Parts

__all__ = ["LISTED", "SUFFIXES", "Parts", "beside", "write_embeddings"]
