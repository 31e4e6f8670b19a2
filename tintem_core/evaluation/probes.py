"""Linear probes on frozen embeddings, in two protocols.

Legend: N train images, M images, K width, C classes, H heads trained together. NumPy in and out.
Nothing is ever chosen on the reported images: a validation share of train decides.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.neighbours import count_classes

Table = NDArray[np.floating]
Labels = NDArray[np.integer]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# As BatchNorm: keeps a constant feature from dividing by zero.
_EPSILON = 1e-5


class LinearProbeConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """BatchNorm without affine + linear, trained by SGD; a grid of heads at once."""

    epochs: int = Field(100, ge=1, description="passes over the training part")
    batch_size: int = Field(256, ge=2, description="images per step")
    learning_rates: tuple[float, ...] = Field(
        (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0),
        min_length=1,
        description="one head each; peak at batch 256, scaled with the batch size",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD; weight decay is 0")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="of each class of train, held out to choose the head"
    )
    seed: int = Field(0, ge=0, description="of the split, the start and the order")


class LogisticConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """L-BFGS logistic regression on standardised embeddings."""

    regularisations: tuple[float, ...] = Field(
        tuple(10.0**e for e in range(-5, 3)),
        min_length=1,
        description="values of C (inverse strength of the L2 penalty) to choose from",
    )
    max_iterations: int = Field(1000, ge=1, description="of L-BFGS")
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="of each class of train, held out to choose C"
    )
    seed: int = Field(0, ge=0, description="of the split")


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = ((x - mean) / scale) Wᵀ + b.

    weight (C, K), bias (C,), mean (K,), scale (K,): float32. choice: the learning rate or C that
    won. validation: {candidate: accuracy on the held-out part of train}. converged: False when the
    optimiser stopped at its limit (always True for SGD).
    """

    weight: Floats
    bias: Floats
    mean: Floats
    scale: Floats
    choice: float
    validation: dict[float, float]
    converged: bool = True

    def logits(self, rows_MK: Table) -> Floats:
        """Class scores, float32 (M, C); ShapeError for another width."""
        if rows_MK.ndim != 2 or rows_MK.shape[1] != len(self.mean):
            raise ShapeError(
                f"Embeddings {rows_MK.shape} do not fit a probe of width {len(self.mean)}."
            )
        ready = (rows_MK.astype(np.float32) - self.mean) / self.scale
        return np.asarray(ready @ self.weight.T + self.bias, np.float32)

    def predict(self, rows_MK: Table) -> Ints:
        """Most probable classes, int64 (M,)."""
        return self.logits(rows_MK).argmax(axis=1)

    def accuracy(self, rows_MK: Table, labels_M: Labels) -> float:
        """Share of right predictions."""
        if labels_M.shape != (len(rows_MK),):
            raise ShapeError(f"{len(rows_MK)} images came with labels of shape {labels_M.shape}.")
        return float(np.mean(self.predict(rows_MK) == labels_M))


def fit_linear_probe(
    train_NK: Table,
    labels_N: Labels,
    config: LinearProbeConfig | None = None,
    classes: int | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Probe:
    """The SGD protocol (DINOv2): all heads see the same batches, the best on validation is kept.

    BatchNorm uses batch statistics while training and their running mean (momentum 0.1)
    afterwards, torch's defaults. Learning rates are multiplied by batch / 256 and decay to 0 on a
    cosine.

    Args:
        train_NK: embeddings, shape (N, K).
        labels_N: classes 0..C-1, shape (N,).
        config: None takes the defaults.
        classes: C; None takes it from the labels.
        device: where the heads are trained.

    Raises:
        ShapeError: labels do not match.
        InputError: fewer than two classes, or too few images to hold any out.
        DegenerateError: embeddings that are not finite, or every head diverged.
    """
    config = config or LinearProbeConfig()
    known = _checked(train_NK, labels_N, classes)
    fit_rows, held_rows = split_validation(labels_N, config.validation_share, config.seed)
    # One number for the whole table keeps BatchNorm's epsilon from favouring large embeddings.
    size = float(np.std(train_NK[fit_rows], dtype=np.float64)) or 1.0
    rows_NK = torch.from_numpy(np.asarray(train_NK[fit_rows] / size, np.float32))
    labels = torch.from_numpy(labels_N[fit_rows].astype(np.int64))
    weight_HCK, bias_HC, mean_K, variance_K = _train_heads(
        rows_NK.to(device), labels.to(device), config, known
    )
    mean, scale = mean_K * size, np.sqrt(variance_K + _EPSILON) * size
    probes = [
        Probe(weight_CK, bias_C, mean, scale, rate, {})
        for weight_CK, bias_C, rate in zip(weight_HCK, bias_HC, config.learning_rates, strict=True)
        if np.isfinite(weight_CK).all()
    ]
    if not probes:
        raise DegenerateError(
            f"All {len(weight_HCK)} probe heads diverged; lower the learning_rates of the probe."
        )
    validation = {p.choice: p.accuracy(train_NK[held_rows], labels_N[held_rows]) for p in probes}
    best = max(probes, key=lambda probe: validation[probe.choice])
    return replace(best, validation=validation)


def fit_logistic(
    train_NK: Table,
    labels_N: Labels,
    config: LogisticConfig | None = None,
    classes: int | None = None,
) -> Probe:
    """The L-BFGS protocol: C is chosen on validation, then the fit is repeated on all of train.

    Embeddings are standardised with the statistics of the images fitted on, so that one grid of C
    suits embeddings of any scale. A tie goes to the stronger regularisation.

    Args and raises: as `fit_linear_probe`.
    """
    config = config or LogisticConfig()
    known = _checked(train_NK, labels_N, classes)
    fit_rows, held_rows = split_validation(labels_N, config.validation_share, config.seed)
    validation = {}
    for strength in sorted(config.regularisations):
        probe = _lbfgs(train_NK[fit_rows], labels_N[fit_rows], strength, config, known, {})
        validation[strength] = probe.accuracy(train_NK[held_rows], labels_N[held_rows])
    best = max(validation, key=lambda c: validation[c])
    return _lbfgs(train_NK, labels_N, best, config, known, validation)


def split_validation(labels_N: Labels, share: float, seed: int) -> tuple[Ints, Ints]:
    """Rows to fit on and rows held out, stratified: each class gives `share` of its images.

    A class of one image stays in the fitted part; any other gives at least one image.

    Raises:
        InputError: no class has two images.
    """
    rng = np.random.default_rng(seed)
    held: list[Ints] = []
    for label in np.unique(labels_N):
        members = rng.permutation(np.flatnonzero(labels_N == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[:count])
    held_rows = np.sort(np.concatenate(held))
    if len(held_rows) == 0:
        raise InputError(
            "Every class has a single labelled image, so none can be held out to choose a probe; "
            "label at least two images of a class."
        )
    return np.setdiff1d(np.arange(len(labels_N)), held_rows), held_rows


def _train_heads(
    rows_NK: torch.Tensor, labels_N: torch.Tensor, config: LinearProbeConfig, classes: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights (H, C, K), biases (H, C), running mean and variance (K,)."""
    count, width = rows_NK.shape
    heads = len(config.learning_rates)
    batch = min(config.batch_size, count)
    generator = torch.Generator().manual_seed(config.seed)
    device = rows_NK.device
    norm = torch.nn.BatchNorm1d(width, affine=False, eps=_EPSILON).to(device)
    start_CK = 0.01 * torch.randn(classes, width, generator=generator)
    weight_HCK = start_CK.expand(heads, classes, width).clone().to(device)
    bias_HC = torch.zeros(heads, classes, device=device)
    momenta = [torch.zeros_like(weight_HCK), torch.zeros_like(bias_HC)]
    rates_H = torch.tensor(config.learning_rates, device=device) * (batch / 256)
    span = torch.arange(batch, device=device)

    steps_per_epoch = count // batch
    steps = steps_per_epoch * config.epochs
    with torch.no_grad():
        for step in range(steps):
            within = step % steps_per_epoch
            if within == 0:
                order = torch.randperm(count, generator=generator).to(device)
            picked = order[within * batch : (within + 1) * batch]
            ready_BK = norm(rows_NK[picked])
            # Softmax regression has a closed gradient; one product serves all heads.
            logits_BHC = (ready_BK @ weight_HCK.view(-1, width).T).view(batch, heads, classes)
            error_BHC = (logits_BHC + bias_HC).softmax(-1)
            error_BHC[span, :, labels_N[picked]] -= 1
            error_BHC /= batch
            slopes = [
                (error_BHC.view(batch, -1).T @ ready_BK).view_as(weight_HCK),
                error_BHC.sum(0),
            ]
            rate_H = rates_H * (0.5 * (1 + math.cos(math.pi * step / steps)))
            for value, momentum, slope in zip((weight_HCK, bias_HC), momenta, slopes, strict=True):
                momentum.mul_(config.momentum).add_(slope)
                value.sub_(momentum * rate_H.view(-1, *[1] * (value.ndim - 1)))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    results = (weight_HCK, bias_HC, norm.running_mean, norm.running_var)
    weight, bias, mean, variance = (value.cpu().numpy() for value in results)
    return weight, bias, mean, variance


def _lbfgs(
    rows_NK: Table,
    labels_N: Labels,
    strength: float,
    config: LogisticConfig,
    classes: int,
    validation: dict[float, float],
) -> Probe:
    # A GPU machine that extracts and trains has no scikit-learn.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean_K = rows_NK.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale_K = rows_NK.std(axis=0, dtype=np.float64).astype(np.float32)
    # A constant feature tells nothing, at any scale of the others.
    scale_K[scale_K <= 1e-6 * scale_K.max()] = max(float(scale_K.max()), 1e-30)
    model = LogisticRegression(C=strength, max_iter=config.max_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((rows_NK.astype(np.float32) - mean_K) / scale_K, labels_N)
    # Two classes come as one row of scores for the second; absent classes must never win.
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weight_CK = np.zeros((classes, rows_NK.shape[1]), np.float32)
    bias_C = np.full(classes, np.finfo(np.float32).min, np.float32)
    weight_CK[model.classes_], bias_C[model.classes_] = coefficients, intercept
    converged = bool(np.max(model.n_iter_) < config.max_iterations)
    return Probe(weight_CK, bias_C, mean_K, scale_K, strength, validation, converged)


def _checked(rows_NK: Table, labels_N: Labels, classes: int | None) -> int:
    if rows_NK.ndim != 2 or labels_N.shape != (len(rows_NK),):
        raise ShapeError(
            f"Embeddings {rows_NK.shape} and labels {labels_N.shape} must be (N, K) and (N,)."
        )
    if len(np.unique(labels_N)) < 2:
        raise InputError(
            "A probe needs images of at least two classes; check label_column and the split."
        )
    if not np.isfinite(rows_NK).all():
        raise DegenerateError("Some train embeddings are not finite; mend the embeddings first.")
    return count_classes(labels_N, classes)
