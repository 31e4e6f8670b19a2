"""What the students of the method benchmark differ in: settings of the mapping, of the training.

All else is the product's default, and the same for all: student, views, support images, batch,
steps, learning rate.
"""

from _datasets import Settings

METHODS: dict[str, tuple[Settings, Settings]] = {
    "tintem": ({}, {}),
    # The mapping as published: trained with the student, SNE, LayerNorm + Linear, random start.
    "cospress": (
        {"fit": "joint", "objective": "sne", "head": "layernorm", "start": "random"},
        {},
    ),
    "proteus": ({}, {"objective": "proteus"}),
    "linear head, cosine": ({}, {"objective": "linear-cosine"}),
    # A synthetic image has no label.
    "supervised": ({}, {"objective": "supervised", "support": 0.0}),
}
ABLATIONS: dict[str, tuple[Settings, Settings]] = {
    "no evaluation view, no support": ({}, {"evaluation_view": 0.0, "support": 0.0}),
    "no evaluation view": ({}, {"evaluation_view": 0.0}),
    "no support": ({}, {"support": 0.0}),
    "support .36": ({}, {"support": 0.36}),
    "evaluation view .1": ({}, {"evaluation_view": 0.1}),
    "evaluation view .5": ({}, {"evaluation_view": 0.5}),
}
VARIANTS = {**METHODS, **ABLATIONS}
