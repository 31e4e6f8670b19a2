"""The recipes that are there to be copied describe runs that can be built."""

from pathlib import Path

import numpy as np
import pytest

from flows.config.load import load_config
from tintem_core.losses.sne import SNE_TEMPERATURES
from tintem_core.models.backbone import build_backbone
from tintem_core.models.student import build_student

RECIPES = sorted((Path(__file__).parent.parent / "deploy" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_describes_models_that_timm_can_build(path: Path) -> None:
    config = load_config(path)
    student = config.student.model_copy(update={"pretrained": False})
    built = build_student(student, config.mapping.width or 192, 0)
    assert built.backbone.width > 0
    for teacher in config.teachers:
        width = build_backbone(teacher).width
        assert width >= (config.mapping.width or built.backbone.width)


def test_the_official_recipe_is_the_papers() -> None:
    """The numbers of the official code, see arXiv 2411.15239."""
    config = load_config(next(path for path in RECIPES if path.stem == "cospress-imagenet"))
    training = config.training
    assert (training.epochs, training.batch_size, training.optimizer) == (300, 1024, "adamw")
    assert (training.learning_rate, training.weight_decay) == (5e-4, 0.05)
    assert (training.warmup_epochs, training.warmup_learning_rate) == (5, 1e-6)
    assert (training.final_learning_rate, training.schedule) == (1e-5, "cosine")
    assert (training.ema_decay, training.clip_norm) == (None, None)
    assert (training.local_weight, training.local_per_token) == (1, False)
    assert (training.precision, training.accumulation, training.extends) == ("float16", 1, None)
    assert (training.select, training.select_knn, training.validate_every) == ("best", 200, 10)
    assert training.objective == "tintem"
    # What the paper does not have.
    assert (training.evaluation_view, training.support, training.centred_weight) == (0, 0, 0)
    assert config.teacher.precision == "float16"
    views = config.views.recipe
    assert (views.name, views.augment, views.erase) == ("timm", "rand-m9-mstd0.5-inc1", 0.25)
    assert (views.min_scale, views.max_ratio, views.flip) == (0.08, 4 / 3, 0.5)
    assert config.cache.tokens
    mapping = config.mapping
    assert (mapping.fit, mapping.objective, mapping.head) == ("joint", "sne", "layernorm")
    np.testing.assert_allclose(SNE_TEMPERATURES, np.arange(1, 11) / 100)
    assert config.student.weights is None
    assert not config.student.pretrained
    student = build_student(config.student, 192, 0).backbone.model
    assert (len(student.blocks), student.embed_dim) == (12, 192)
    assert student.blocks[0].attn.num_heads == 3
    assert student.patch_embed.patch_size == (14, 14)
    assert student.blocks[0].ls1.gamma.tolist() == [1.0] * 192
