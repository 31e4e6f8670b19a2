"""Every setting of a mapping: in its identity where it matters, and what the axes change."""

import pytest
import torch

from tests.tintem_core.mapping.test_fit import D, K, _fit, _latents, _short
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.fit import start_mapping

CHANGES = {
    "start": "pca-basis",
    "axes": "principal",
    "steps": 7,
    "batch_size": 64,
    "token_images": 9,
    "learning_rate": 1e-2,
    "moment_rows": 200,
    "seed": 5,
}
WAYS = {
    "svd": {"objective": "svd"},
    "svd of some rows": {"objective": "svd", "moment_rows": 100},
    "pca": {"objective": "pca-basis"},
    "random": {"objective": "random-orthogonal"},
    "random, layernorm": {"objective": "random-orthogonal", "head": "layernorm", "moment_rows": 99},
    "cosine": {"objective": "cosine"},
    "cosine of some rows": {"objective": "cosine", "moment_rows": 100},
    "cosine from random": {"objective": "cosine", "start": "random"},
    "joint": {"objective": "cosine", "fit": "joint"},
    "joint from random": {"objective": "cosine", "fit": "joint", "start": "random"},
}


@pytest.mark.parametrize("setting", CHANGES)
@pytest.mark.parametrize("way", WAYS)
def test_a_setting_is_in_the_identity_exactly_where_it_changes_the_mapping(
    way: str, setting: str
) -> None:
    rows = _latents(300)

    def made(config: MappingConfig) -> dict[str, torch.Tensor]:
        if config.fit == "joint":
            return start_mapping(config, lambda i: rows[i], 300, D, K).state_dict()
        return _fit(config, rows).mapping.state_dict()

    config = _short(**{"steps": 5, **WAYS[way]})
    other = config.model_copy(update={setting: CHANGES[setting]})
    pairs = zip(made(config).values(), made(other).values(), strict=True)
    is_same = all(torch.equal(one, two) for one, two in pairs)
    names = [each.identity(300, tokens=False) for each in (config, other)]
    assert (names[0] == names[1]) == is_same


def test_tokens_that_are_compared_and_rows_that_are_there_count_in_the_identity() -> None:
    config = MappingConfig()
    assert config.identity(1000, tokens=True) != config.identity(1000, tokens=False)
    fewer = config.model_copy(update={"token_images": 32})
    assert config.identity(1000, tokens=True) != fewer.identity(1000, tokens=True)
    larger = config.model_copy(update={"batch_size": 9000})
    assert config.identity(500, tokens=True) == larger.identity(500, tokens=True)
    assert config.identity(9000, tokens=True) != larger.identity(9000, tokens=True)


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
@pytest.mark.parametrize("way", ["svd", "pca", "cosine", "joint"])
def test_mixed_axes_change_no_angle_and_spread_the_variance(way: str, head: str) -> None:
    rows = _latents()
    config = _short(**{**WAYS[way], "head": head})
    mapped = {}
    for axes in ("mixed", "principal"):
        chosen = config.model_copy(update={"axes": axes})
        if config.fit == "joint":
            mapping = start_mapping(chosen, lambda i: rows[i], len(rows), D, K)
        else:
            mapping = _fit(chosen, rows).mapping
        mapped[axes] = mapping(torch.from_numpy(rows)).detach().double()
    gram = {axes: values @ values.T for axes, values in mapped.items()}
    torch.testing.assert_close(gram["mixed"], gram["principal"], rtol=1e-4, atol=1e-4)
    share = {axes: (values**2).sum(0) / (values**2).sum() for axes, values in mapped.items()}
    assert share["mixed"].std() < 0.7 * share["principal"].std()
