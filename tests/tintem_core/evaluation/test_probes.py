"""Both probes learn, choose on validation only, and do not care about scale."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.probes import (
    LinearProbeConfig,
    LogisticConfig,
    fit_linear_probe,
    fit_logistic,
    split_validation,
)

FITS = [fit_linear_probe, fit_logistic]


def _task(
    count: int = 300, classes: int = 4, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(7).normal(size=(classes, 12))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    rows = centres[labels] + spread * rng.normal(size=(count, 12))
    return rows.astype(np.float32), labels


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("classes", [2, 4])
def test_probe_reaches_the_accuracy_of_the_best_linear_rule(fit, classes: int) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task(600, classes)
    test_rows, test_labels = _task(2000, classes, seed=1)
    probe = fit(rows, labels)
    # For equal round clouds the nearest centre is the best rule there is.
    centres = np.random.default_rng(7).normal(size=(classes, 12))
    distance = ((test_rows[:, None] - centres) ** 2).sum(-1)
    best = np.mean(distance.argmin(1) == test_labels)
    assert probe.accuracy(test_rows, test_labels) > best - 0.03
    assert probe.logits(test_rows).shape == (2000, classes)
    assert probe.choice in probe.validation


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_probe_ignores_the_scale_of_the_embeddings(fit, scale: float) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task()
    plain, scaled = fit(rows, labels), fit((rows * scale).astype(np.float32), labels)
    same = plain.predict(rows) == scaled.predict((rows * scale).astype(np.float32))
    assert same.mean() > 0.99


@pytest.mark.parametrize("fit", FITS)
def test_same_seed_same_probe(fit) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task()
    torch.manual_seed(1)
    first = fit(rows, labels)
    torch.manual_seed(2)
    second = fit(rows, labels)
    np.testing.assert_array_equal(first.weight, second.weight)
    assert first.choice == second.choice


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    rows, labels = _task()
    together = LinearProbeConfig(learning_rates=(1e-3, 0.1), epochs=5)
    probe = fit_linear_probe(rows, labels, together)
    alone = LinearProbeConfig(learning_rates=(probe.choice,), epochs=5)
    np.testing.assert_allclose(
        probe.weight, fit_linear_probe(rows, labels, alone).weight, atol=1e-6
    )


def test_sgd_head_matches_torch_modules_step_for_step() -> None:
    rows, labels = _task(64)
    config = LinearProbeConfig(learning_rates=(0.5,), epochs=7, batch_size=16)
    probe = fit_linear_probe(rows, labels, config)
    fit_rows, _ = split_validation(labels, config.validation_share, 0)
    x = torch.from_numpy(rows[fit_rows] / np.std(rows[fit_rows], dtype=np.float64)).float()
    y = torch.from_numpy(labels[fit_rows])
    generator = torch.Generator().manual_seed(0)
    norm, linear = torch.nn.BatchNorm1d(12, affine=False), torch.nn.Linear(12, 4)
    with torch.no_grad():
        linear.weight.copy_(0.01 * torch.randn(4, 12, generator=generator))
        linear.bias.zero_()
    optimiser = torch.optim.SGD(linear.parameters(), lr=0.5 * 16 / 256, momentum=0.9)
    steps = len(x) // 16 * 7
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(7):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - 15, 16):
            picked = order[start : start + 16]
            loss = torch.nn.functional.cross_entropy(linear(norm(x[picked])), y[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    np.testing.assert_allclose(probe.weight, linear.weight.detach().numpy(), atol=2e-5)
    norm.eval()
    everything = torch.from_numpy(rows / np.std(rows[fit_rows], dtype=np.float64)).float()
    expected = linear(norm(everything)).detach().numpy()
    np.testing.assert_allclose(probe.logits(rows), expected, atol=2e-4)


def test_a_diverged_head_is_never_chosen() -> None:
    rows, labels = _task()
    with np.errstate(all="ignore"):
        probe = fit_linear_probe(rows, labels, LinearProbeConfig(learning_rates=(1e38, 0.1)))
        assert probe.choice == 0.1
        with pytest.raises(DegenerateError, match="diverged"):
            fit_linear_probe(rows, labels, LinearProbeConfig(learning_rates=(1e38,)))


def test_logistic_equals_scikit_learn_on_standardised_rows() -> None:
    rows, labels = _task()
    probe = fit_logistic(rows, labels, LogisticConfig(regularisations=(0.1,)))
    ready = (rows - rows.mean(0)) / rows.std(0)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(ready, labels)
    np.testing.assert_allclose(probe.logits(rows), model.decision_function(ready), atol=1e-3)
    assert probe.converged
    hurried = fit_logistic(rows, labels, LogisticConfig(max_iterations=2))
    assert not hurried.converged


def test_regularisation_is_chosen_on_the_held_out_part() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    rows = rng.normal(size=(80, 200))
    rows[:, 0] += 3 * labels
    probe = fit_logistic(rows, labels)
    assert probe.validation[probe.choice] == max(probe.validation.values())
    assert set(probe.validation) == set(LogisticConfig().regularisations)


@pytest.mark.parametrize("fit", FITS)
def test_classes_without_images_are_never_predicted(fit) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task(200, 2)
    probe = fit(rows, labels * 2, None, 5)
    assert probe.logits(rows).shape == (200, 5)
    assert set(np.unique(probe.predict(rows))) <= {0, 2}


def test_validation_split_is_stratified_and_disjoint() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 20, 2, 1])
    fitted, held = split_validation(labels, 0.1, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    np.testing.assert_array_equal(np.sort(np.r_[fitted, held]), np.arange(123))
    np.testing.assert_array_equal(split_validation(labels, 0.1, seed=0)[1], held)
    assert not np.array_equal(split_validation(labels, 0.1, seed=1)[1], held)


@pytest.mark.parametrize("fit", FITS)
def test_a_handful_of_images_and_a_constant_feature_are_fine(fit) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task(6, 2)
    labels = np.array([0, 1, 0, 1, 0, 1])
    rows[:, 3] = 2.5
    probe = fit(rows, labels)
    assert np.isfinite(probe.logits(rows)).all()


@pytest.mark.parametrize("fit", FITS)
def test_impossible_probes_are_refused(fit) -> None:  # type: ignore[no-untyped-def]
    rows, labels = _task()
    with pytest.raises(InputError, match="two classes"):
        fit(rows, np.zeros_like(labels))
    with pytest.raises(ShapeError):
        fit(rows, labels[:-1])
    with pytest.raises(InputError, match=r"0\.\.1"):
        fit(rows, labels, None, 2)
    with pytest.raises(InputError, match="single labelled image"):
        fit(rows[:4], np.arange(4))
    broken = rows.copy()
    broken[0, 0] = np.nan
    with pytest.raises(DegenerateError):
        fit(broken, labels)
    with pytest.raises(ShapeError):
        fit(rows, labels).logits(rows[:, :5])


def test_what_a_probe_is_chosen_by_are_images_that_it_has_not_seen() -> None:
    """Labels that say nothing are learned by heart, and told no better than by chance."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(120, 200)).astype(np.float32), np.arange(120) % 2
    chosen = {
        fit_linear_probe: LinearProbeConfig(epochs=40, validation_share=0.5),
        fit_logistic: LogisticConfig(validation_share=0.5),
    }
    for fit, config in chosen.items():
        probe = fit(rows, labels, config)  # type: ignore[operator]
        fitted, _ = split_validation(labels, 0.5, config.seed)
        assert probe.accuracy(rows[fitted], labels[fitted]) > 0.85
        assert max(probe.validation.values()) < 0.75
