"""Each objective against its formula written out with NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tintem_core.errors import InputError, ShapeError
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.module import Mapping
from tintem_core.objectives.base import Objective, Parts, Targets
from tintem_core.objectives.config import ObjectiveConfig
from tintem_core.objectives.head import MatchThroughHead
from tintem_core.objectives.registry import build_objective

B, T, D, K = 6, 4, 10, 5


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return (
        (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    )


def objective(name: str, joint: MappingConfig | None = None, **settings: object) -> Objective:
    mapping = Mapping(D, K)
    mapping.set_weight(rows(K, D, seed=9))
    config = ObjectiveConfig.model_validate({"objective": name, **settings})
    return built(config, mapping, joint=joint, classes=3)


def built(config: ObjectiveConfig, mapping: Mapping, **parts: Any) -> Objective:
    return build_objective(config.objective, Parts(mapping, config, **parts))


EMBEDDING, TOKENS = rows(B, K, seed=1), rows(B, T, K, seed=2)
TARGETS = Targets(rows(B, D, seed=3), rows(B, T, D, seed=4), torch.tensor([0, 1, 2, 0, 1, 2]))
W = rows(K, D, seed=9).numpy()


@pytest.mark.parametrize("per_token", [False, True])
def test_tintem_compares_with_the_mapped_teacher_image_by_image(per_token: bool) -> None:
    assert TARGETS.tokens is not None
    found = objective("tintem", local_weight=0.7, local_per_token=per_token)(
        EMBEDDING, TOKENS, TARGETS
    )
    mapped, mapped_tokens = TARGETS.latents.numpy() @ W.T, TARGETS.tokens.numpy() @ W.T
    tokens = TOKENS.numpy()
    if not per_token:
        tokens, mapped_tokens = tokens.reshape(B, -1), mapped_tokens.reshape(B, -1)
    wanted = 1 - cosine(EMBEDDING.numpy(), mapped).mean()
    wanted += 0.7 * (1 - cosine(tokens, mapped_tokens).mean())
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_the_centred_term_takes_cosines_from_the_mean_target_on() -> None:
    mapping = Mapping(D, K)
    mapping.set_weight(rows(K, D, seed=9))
    centre = rows(K, seed=5) / 10
    settings = ObjectiveConfig(centred_weight=0.3)
    found = built(settings, mapping, centre=centre)(EMBEDDING, None, TARGETS)
    mapped, answers = TARGETS.latents.numpy() @ W.T, EMBEDDING.numpy()
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (answers, mapped)]
    wanted = 1 - cosine(answers, mapped).mean()
    wanted += 0.3 * (1 - cosine(*(side - centre.numpy() for side in units)).mean())
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_the_centred_term_refuses_a_centre_of_another_width() -> None:
    objective = built(ObjectiveConfig(), Mapping(D, K), centre=rows(K + 1))
    with pytest.raises(ShapeError, match=r"the centre \(6,\)"):
        objective(EMBEDDING, None, TARGETS)


@pytest.mark.parametrize("per_token", [False, True])
def test_tokens_that_are_mapped_already_are_not_mapped_again(per_token: bool) -> None:
    assert TARGETS.tokens is not None
    mapping = Mapping(D, K)
    mapping.set_weight(rows(K, D, seed=9))
    config = ObjectiveConfig(local_weight=0.7, local_per_token=per_token)
    mapped = Targets(TARGETS.latents, mapping(TARGETS.tokens))
    found = built(config, mapping, tokens_are_mapped=True)(EMBEDDING, TOKENS, mapped)
    wanted = built(config, mapping)(EMBEDDING, TOKENS, TARGETS)
    torch.testing.assert_close(found, wanted)


def test_without_tokens_only_embeddings_count() -> None:
    found = objective("tintem", local_weight=1)(EMBEDDING, None, TARGETS)
    wanted = 1 - cosine(EMBEDDING.numpy(), TARGETS.latents.numpy() @ W.T).mean()
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_a_joint_mapping_is_pulled_by_its_own_loss_alone() -> None:
    """The student's gradient stops before the mapping, as in the official code."""
    live = objective("tintem", MappingConfig(fit="joint", objective="cosine"))
    embedding = EMBEDDING.clone().requires_grad_()
    live(embedding, None, TARGETS).backward()
    (gradient,) = [p.grad for p in live.parameters() if p.grad is not None]
    alone = Mapping(D, K)
    alone.set_weight(rows(K, D, seed=9))
    from tintem_core.losses.cosine import pairwise_cosine_loss

    pairwise_cosine_loss(alone(TARGETS.latents), TARGETS.latents).backward()
    torch.testing.assert_close(gradient, alone.linear.weight.grad)
    assert embedding.grad is not None


@pytest.mark.parametrize("name", ["proteus", "linear-cosine"])
def test_a_baseline_reaches_the_teacher_through_its_head(name: str) -> None:
    baseline = objective(name, local_weight=2.0)
    assert isinstance(baseline, MatchThroughHead)
    assert TARGETS.tokens is not None
    found = baseline(EMBEDDING, TOKENS, TARGETS).item()
    through = baseline.through_head(EMBEDDING)
    assert through is not None
    with torch.no_grad():
        pairs = [
            (through.numpy(), TARGETS.latents.numpy()),
            (baseline.head(TOKENS).numpy().reshape(B, -1), TARGETS.tokens.numpy().reshape(B, -1)),
        ]
    if name == "proteus":
        wanted = [((student - teacher) ** 2).mean() for student, teacher in pairs]
    else:
        wanted = [1 - cosine(student, teacher).mean() for student, teacher in pairs]
    assert found == pytest.approx(wanted[0] + 2 * wanted[1], rel=1e-5)
    names = set(baseline.trained_state())
    assert names == ({"0.weight", "0.bias", "1.weight", "1.bias"} if name == "proteus" else
                     {"weight", "bias"})  # fmt: skip


def test_supervised_is_cross_entropy() -> None:
    baseline = objective("supervised")
    found = baseline(EMBEDDING, None, TARGETS).item()
    state = baseline.trained_state()
    logits = EMBEDDING.numpy() @ state["weight"].numpy().T + state["bias"].numpy()
    assert TARGETS.labels is not None
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log(chances[np.arange(B), TARGETS.labels.numpy()]).mean()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert baseline.through_head(EMBEDDING) is None


def test_supervised_needs_two_classes() -> None:
    config = ObjectiveConfig(objective="supervised")
    with pytest.raises(InputError, match="at least two classes, but the training photos have 1"):
        built(config, Mapping(D, K), classes=1)
    with pytest.raises(ValueError, match="no patch-token term"):
        ObjectiveConfig(objective="supervised", local_weight=1)


def test_heads_start_the_same_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = objective("proteus"), objective("proteus")
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_what_was_trained_can_be_loaded_again(head: str) -> None:
    joint = MappingConfig.model_validate({"fit": "joint", "head": head})
    settings = ObjectiveConfig()
    first = built(settings, Mapping(D, K, joint.head), joint=joint)
    optimizer = torch.optim.SGD(first.parameters(), lr=1.0)
    first(EMBEDDING, None, TARGETS).backward()
    optimizer.step()
    again = built(settings, Mapping(D, K, joint.head), joint=joint)
    again.load_trained(first.trained_state())
    torch.testing.assert_close(
        again(EMBEDDING, None, TARGETS), first(EMBEDDING, None, TARGETS), rtol=1e-5, atol=1e-6
    )
