"""Teachers and students: models of images as embedders."""
