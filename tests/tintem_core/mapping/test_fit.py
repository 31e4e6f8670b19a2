"""The mapping keeps angles, streams, is reproducible, and is exact where it can be."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.pairs import angle_preservation
from tintem_core.losses.cosine import cosine_student_loss
from tintem_core.mapping.closed_form import orthogonality_error, second_moment
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.fit import FittedMapping, fit_mapping, mapping_loss, start_mapping
from tintem_core.mapping.module import Mapping

D, K = 24, 8
Floats = NDArray[np.float32]


def _latents(rows: int = 400, dim: int = D) -> Floats:
    """Strongly uneven spectrum and a large mean, as real embeddings have."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(dim, dim)) * (0.8 ** np.arange(dim))[:, None]
    return (rng.normal(size=(rows, dim)) @ mixing + rng.normal(1, 1, dim)).astype(np.float32)


def _fit(config: MappingConfig, latents: Floats, width: int = K) -> FittedMapping:
    return fit_mapping(config, lambda i: latents[i], len(latents), latents.shape[1], width)


def _map(fitted: FittedMapping, latents: Floats) -> Floats:
    mapped: Floats = fitted.mapping(torch.from_numpy(latents)).numpy()
    return mapped


def _short(**settings: object) -> MappingConfig:
    return MappingConfig.model_validate({"steps": 40, "batch_size": 128, **settings})


@pytest.mark.parametrize("batch", [7, 400])
@pytest.mark.parametrize("centre", [False, True])
def test_second_moment_streams_to_the_numpy_result(batch: int, centre: bool) -> None:
    rows = _latents()
    batches = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    wide = rows.astype(np.float64)
    expected = np.cov(wide.T, bias=True) if centre else wide.T @ wide / len(wide)
    np.testing.assert_allclose(second_moment(batches, centre), expected, rtol=2e-5, atol=2e-5)


def test_second_moment_refuses_nothing_and_nan() -> None:
    for batches in ([], [np.full((3, 2), np.nan)]):
        with pytest.raises(DegenerateError, match="second moment"):
            second_moment(batches, centre=False)


def test_svd_is_the_best_projection_of_the_unit_rows() -> None:
    rows = _latents()
    fitted = _fit(MappingConfig(objective="svd"), rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    basis = np.linalg.svd(unit.astype(np.float64), full_matrices=False)[2][:K]
    weight = fitted.mapping.linear.weight.numpy()
    np.testing.assert_allclose(weight.T @ weight, basis.T @ basis, atol=1e-5)
    assert fitted.orthogonality < 1e-6
    assert fitted.curve == []


def test_pca_basis_spans_the_centred_rows_but_keeps_the_mean() -> None:
    rows = _latents()
    fitted = _fit(MappingConfig(objective="pca-basis"), rows)
    basis = np.linalg.svd((rows - rows.mean(0)).astype(np.float64), full_matrices=False)[2][:K]
    weight = fitted.mapping.linear.weight.numpy()
    np.testing.assert_allclose(weight.T @ weight, basis.T @ basis, atol=1e-4)
    np.testing.assert_allclose(_map(fitted, rows).mean(0), rows.mean(0) @ weight.T, rtol=1e-4)
    assert np.linalg.norm(_map(fitted, rows).mean(0)) > 0.1


@pytest.mark.parametrize("objective", ["sne", "cosine"])
@pytest.mark.parametrize("start", ["svd", "pca-basis", "random"])
@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_every_fit_lowers_its_loss_and_repeats_exactly(
    objective: str, start: str, head: str
) -> None:
    rows = _latents(100)
    # The batch is the whole table, so that losses of different steps compare.
    config = _short(objective=objective, start=start, head=head, seed=3, steps=25)
    torch.manual_seed(1)
    fitted = _fit(config, rows)
    torch.manual_seed(2)
    again = _fit(config, rows)
    assert fitted.curve[-1]["loss"] < fitted.curve[0]["loss"]
    for name, tensor in fitted.mapping.state_dict().items():
        assert torch.equal(tensor, again.mapping.state_dict()[name])
    assert not fitted.mapping.training
    assert not any(p.requires_grad for p in fitted.mapping.parameters())


def test_another_seed_is_another_fit_of_the_same_quality() -> None:
    rows = _latents()
    first, second = (_fit(_short(seed=s), rows) for s in (0, 1))
    assert not torch.equal(first.mapping.linear.weight, second.mapping.linear.weight)
    scores = [angle_preservation(rows, _map(f, rows))["pairwise_pearson"] for f in (first, second)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_fitted_angles_beat_the_closed_form_which_beats_chance() -> None:
    rows = _latents(600)
    train, held = rows[:400], rows[400:]
    errors = {}
    for name, config in {
        "cosine": MappingConfig(),
        "svd": MappingConfig(objective="svd"),
        "random": MappingConfig(objective="random-orthogonal"),
    }.items():
        kept = angle_preservation(held, _map(_fit(config, train), held))
        errors[name] = kept["mean_abs_cosine_error"]
    assert errors["cosine"] < errors["svd"] < errors["random"]


def test_orthogonal_head_stays_orthogonal_and_stores_plain_weights() -> None:
    rows = _latents()
    fitted = _fit(_short(head="orthogonal", start="random", learning_rate=1e-2), rows)
    assert fitted.orthogonality < 1e-6
    assert list(fitted.mapping.state_dict()) == ["linear.weight"]
    assert orthogonality_error(_fit(_short(learning_rate=1e-2), rows).mapping.linear.weight) > 1e-4


def test_layernorm_head_starts_at_the_closed_form() -> None:
    rows = _latents()
    start = _fit(MappingConfig(objective="svd", head="layernorm"), rows)
    plain = _fit(MappingConfig(objective="svd"), rows)
    rounding = angle_preservation(_map(plain, rows), _map(start, rows))
    assert rounding["pairwise_pearson"] > 0.9


@pytest.mark.parametrize("head", ["linear", "orthogonal"])
@pytest.mark.parametrize(("rows", "width"), [(40, D), (5, K), (3, K)])
def test_angles_are_exact_where_the_width_allows(head: str, rows: int, width: int) -> None:
    latents = _latents(rows)
    for objective in ("svd", "sne", "cosine"):
        fitted = _fit(_short(objective=objective, head=head), latents, width)
        mapped = torch.from_numpy(_map(fitted, latents))
        gap = torch.nn.functional.normalize(mapped) @ torch.nn.functional.normalize(mapped).T
        unit = torch.nn.functional.normalize(torch.from_numpy(latents))
        torch.testing.assert_close(gap, unit @ unit.T, atol=2e-6, rtol=0)
        assert fitted.orthogonality < 1e-6


def test_closed_form_stays_orthonormal_with_fewer_rows_than_width() -> None:
    for rows in (1, 2, K - 1):
        assert _fit(MappingConfig(objective="svd"), _latents(rows)).orthogonality < 1e-6


def test_impossible_fits_are_refused_with_a_cure() -> None:
    rows = _latents()
    with pytest.raises(InputError, match=f"at most {D}"):
        _fit(MappingConfig(), rows, D + 1)
    with pytest.raises(DegenerateError, match="svd"):
        _fit(MappingConfig(), rows[:2])
    with pytest.raises(InputError, match="no image"):
        _fit(MappingConfig(), rows[:0])
    with pytest.raises(InputError, match=r"mapping\.width is 5"):
        _fit(MappingConfig(width=5), rows)
    with pytest.raises(ShapeError, match="24 wide, but D is 30"):
        fit_mapping(MappingConfig(), lambda i: rows[i], len(rows), 30, K)
    with pytest.raises(DegenerateError, match="not finite"):
        _fit(MappingConfig(), np.full_like(rows, np.nan))
    with pytest.raises(ValidationError, match="joint"):
        MappingConfig(objective="svd", fit="joint")


def test_fit_asks_for_bounded_sorted_batches_however_many_rows() -> None:
    asked = []
    latents = _latents(50)

    def sample(rows: NDArray[np.int64]) -> Floats:
        asked.append(rows)
        return latents[rows % 50]

    config = MappingConfig(steps=3, moment_rows=9_000)
    fitted = fit_mapping(config, sample, 10_000_000, D, K)
    assert max(len(rows) for rows in asked) <= 4_096
    assert sum(len(rows) for rows in asked) == 9_000 + 3 * 512
    assert all((np.diff(rows) > 0).all() for rows in asked)
    assert len(fitted.curve) == 3


def test_progress_and_curve_cover_the_whole_fit() -> None:
    seen = []
    latents = _latents()
    config = _short(steps=250)
    fitted = fit_mapping(
        config, lambda i: latents[i], len(latents), D, K, lambda d, n: seen.append((d, n))
    )
    assert seen[-1] == (250, 250)
    assert len(seen) == 250
    assert [p["step"] for p in fitted.curve][-2:] == [248, 249]
    assert fitted.seconds > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_fit_takes_read_only_rows_of_either_precision(dtype: type[np.floating]) -> None:
    latents = _latents().astype(dtype)
    latents.flags.writeable = False
    fitted = fit_mapping(_short(steps=2), lambda i: latents[: len(i)], len(latents), D, K)
    assert np.isfinite(fitted.curve[-1]["loss"])


def test_an_exact_start_ends_the_fit_and_its_progress() -> None:
    seen = []
    latents = _latents(3)
    fitted = fit_mapping(_short(), lambda i: latents[i], 3, D, K, lambda *s: seen.append(s))
    assert seen == [(40, 40)]
    assert len(fitted.curve) == 1


def test_token_term_pulls_the_mapping_towards_the_tokens() -> None:
    latents = _latents(64)
    tokens = np.random.default_rng(1).normal(size=(64, 6, D)).astype(np.float32)

    def token_loss(fitted: FittedMapping) -> float:
        return mapping_loss(config, fitted.mapping, torch.from_numpy(tokens)).item()

    config = _short(steps=100, learning_rate=3e-3)
    without = _fit(config, latents)
    having = fit_mapping(config, lambda i: latents[i], 64, D, K, sample_tokens=lambda i: tokens[i])
    assert token_loss(having) < token_loss(without)


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_mapping_survives_its_state(head: str) -> None:
    latents = _latents()
    config = _short(head=head, steps=5)
    fitted = _fit(config, latents)
    copy = Mapping.from_state(config, D, K, fitted.mapping.state_dict())
    x = torch.from_numpy(latents)
    assert torch.equal(copy(x), fitted.mapping(x))
    live = start_mapping(config, lambda i: latents[i], len(latents), D, K)
    twin = Mapping.from_state(config, D, K, live.state_dict())
    assert torch.equal(twin(x), live(x))
    with pytest.raises(ShapeError, match="does not fit"):
        Mapping.from_state(config, D, K + 1, fitted.mapping.state_dict())


def test_mapping_takes_tokens_and_halves_and_ignores_autocast() -> None:
    mapping = Mapping(D, K)
    x = torch.randn(2, 3, D)
    assert torch.equal(mapping(x), x[..., :K])
    assert mapping(x.half()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mapping(x), x[..., :K])
    with pytest.raises(ShapeError, match="another teacher"):
        mapping(torch.randn(2, D + 1))


@pytest.mark.parametrize("head", ["linear", "layernorm", "orthogonal"])
def test_joint_step_trains_head_and_student_apart(head: str) -> None:
    latents = _latents()
    config = _short(head=head, fit="joint")
    mapping = start_mapping(config, lambda i: latents[i], len(latents), D, K)
    student = torch.randn(32, K, requires_grad=True)
    teacher = torch.from_numpy(latents[:32])
    mapped = mapping(teacher)
    cosine_student_loss(student, mapped).backward()
    assert all(p.grad is None for p in mapping.parameters())
    assert student.grad is not None
    mapping_loss(config, mapping, teacher, mapped).backward()
    assert all(torch.isfinite(p.grad).all() for p in mapping.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in mapping.parameters())


def test_orthogonality_error_uses_the_best_scale() -> None:
    rng = np.random.default_rng(0)
    q = torch.from_numpy(np.linalg.qr(rng.normal(size=(12, 5)))[0].T)
    assert orthogonality_error(7 * q) < 1e-12
    weight = torch.tensor([[2.0, 0, 0], [0, 1, 0]])
    # Gram diag(4, 1), best c 2.5: ||(1.5, -1.5)|| / ||(2.5, 2.5)||.
    assert orthogonality_error(weight) == pytest.approx(0.6)
    with pytest.raises(DegenerateError):
        orthogonality_error(torch.zeros(2, 3))


def test_angle_preservation_is_perfect_for_a_rotation() -> None:
    rows = _latents(60)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    kept = angle_preservation(rows, (3 * rows @ rotation).astype(np.float32))
    assert kept["pairwise_pearson"] == pytest.approx(1, abs=1e-6)
    assert kept["pairwise_spearman"] == pytest.approx(1, abs=1e-6)
    assert kept["mean_abs_cosine_error"] < 1e-6
    assert kept["neighbour_overlap_10"] == 1
    assert kept["n"] == 60
    with pytest.raises(ShapeError):
        angle_preservation(rows, rows[:50])
