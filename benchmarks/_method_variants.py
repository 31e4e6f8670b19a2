"""What the students of the method benchmark differ in: settings of the mapping, of the training.

All else is the product's default, and the same for all: student, views, support images, batch,
steps, learning rate.
"""

from _datasets import Settings

EPOCHS = 20

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
    "no evaluation view, no support, no centred term": (
        {},
        {"evaluation_view": 0.0, "support": 0.0, "centred_weight": 0.0},
    ),
    "no evaluation view": ({}, {"evaluation_view": 0.0}),
    "evaluation view .25": ({}, {"evaluation_view": 0.25}),
    "no support": ({}, {"support": 0.0}),
    "support .36": ({}, {"support": 0.36}),
    "no centred term": ({}, {"centred_weight": 0.0}),
    "centred term, half whitened": ({}, {}),
    "moving average of the weights, .99": ({}, {"ema_decay": 0.99}),
    "twice the steps": ({}, {"epochs": 2 * EPOCHS}),
}
VARIANTS = {**METHODS, **ABLATIONS}
# The power of the inverse covariance in the centred term.
WHITENING = {"centred term, half whitened": 0.5}
