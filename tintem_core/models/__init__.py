"""Teachers and students: timm models as embedders."""
