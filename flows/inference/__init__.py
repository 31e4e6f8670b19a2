"""Finished models at work on photos: a student that was exported, or the mapped teacher."""
