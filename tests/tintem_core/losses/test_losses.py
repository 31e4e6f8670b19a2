"""The losses against independent float64 NumPy formulas, and their gradients."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from tintem_core.distributed import gather_with_grad
from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.losses.cosine import cosine_student_loss, pairwise_cosine_loss
from tintem_core.losses.regression import proteus_loss
from tintem_core.losses.sne import SNE_TEMPERATURES, sne_loss

Doubles = NDArray[np.float64]


def _cosines(rows: NDArray[np.floating]) -> Doubles:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit @ unit.T


def _log_joint(cosines: Doubles, tau: float) -> Doubles:
    """Steps 1 and 2 of docs/method.md section 1, literally: log P over the whole matrix."""
    count = len(cosines)
    logits = cosines / tau
    np.fill_diagonal(logits, -np.inf)
    conditional = logits - logsumexp(logits, axis=1, keepdims=True)
    joint = np.logaddexp(conditional, conditional.T) - np.log(2 * count)
    return joint - logsumexp(joint)


def _reference_sne(mapped: NDArray[np.floating], teacher: NDArray[np.floating]) -> float:
    off = ~np.eye(len(mapped), dtype=bool)
    losses = []
    for tau in np.arange(1, 11) / 100:
        p, q = _log_joint(_cosines(teacher), tau)[off], _log_joint(_cosines(mapped), tau)[off]
        losses.append(np.sum(np.exp(p) * (p - q)))
    return float(np.mean(losses))


def _reference_cosine(mapped: NDArray[np.floating], teacher: NDArray[np.floating]) -> float:
    off = ~np.eye(len(mapped), dtype=bool)
    return float(np.mean((_cosines(mapped) - _cosines(teacher))[off] ** 2))


def _pair(n: int, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(n)
    teacher = rng.normal(0.2, 1, (n, 24)).astype(np.float32)
    mapped = (teacher @ rng.normal(size=(24, 10))).astype(np.float32)
    if kind == "near-perfect":
        mapped = teacher + 1e-3 * rng.normal(size=teacher.shape).astype(np.float32)
    elif kind == "duplicates":
        mapped[1], teacher[1] = mapped[0], teacher[0]
    elif kind == "zero vector":
        mapped[0], teacher[1] = 0, 0
    elif kind == "all zero":
        mapped[:] = 0
    elif kind == "constant":
        mapped[:], teacher[:] = 1.5, -2
    elif kind == "opposed":
        mapped[: n // 2] = mapped[0]
        mapped[n // 2 :] = -mapped[0]
    return mapped, teacher


KINDS = ["random", "near-perfect", "duplicates", "zero vector", "all zero", "constant", "opposed"]


@pytest.mark.parametrize(
    ("n", "kind"),
    [(n, kind) for n in (3, 4, 17, 128) for kind in KINDS]
    + [(1024, "random"), (1024, "near-perfect")],
)
def test_sne_in_float32_agrees_with_the_float64_formulas(n: int, kind: str) -> None:
    mapped, teacher = _pair(n, kind)
    live = torch.from_numpy(mapped).requires_grad_()
    loss = sne_loss(live, torch.from_numpy(teacher))
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), _reference_sne(mapped, teacher), rtol=1e-6, atol=1e-12)
    loss.backward()
    assert live.grad is not None
    assert torch.isfinite(live.grad).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 17, 1024])
def test_pairwise_cosine_agrees_with_the_float64_formula(n: int, kind: str) -> None:
    mapped, teacher = _pair(n, kind)
    expected = _reference_cosine(mapped, teacher)
    live = torch.from_numpy(mapped).requires_grad_()
    loss = pairwise_cosine_loss(live, torch.from_numpy(teacher))
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6, atol=1e-12)
    loss.backward()
    assert live.grad is not None
    assert torch.isfinite(live.grad).all()
    wide = pairwise_cosine_loss(
        torch.from_numpy(mapped).double(), torch.from_numpy(teacher).double()
    )
    np.testing.assert_allclose(wide.item(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [sne_loss, pairwise_cosine_loss])
@pytest.mark.parametrize("shape", [(3, 4), (12, 5), (2, 7, 3), (2, 3, 4, 5)])
def test_gradients_of_pair_losses_pass_gradcheck(loss, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    mapped = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(*shape[:-1], 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: loss(m, teacher), mapped)


def test_sne_gradient_does_not_depend_on_how_pairs_are_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    teacher, start = torch.randn(3, 40, 8).double(), torch.randn(3, 40, 5).double()
    results = []
    for block in (1, 7 * 40, 3 * 40 * 40):
        monkeypatch.setattr("tintem_core.losses.sne._block_pairs", lambda _, size=block: size)
        mapped = start.clone().requires_grad_()
        loss = sne_loss(mapped, teacher)
        loss.backward()
        results.append((loss.detach(), mapped.grad))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-10, atol=1e-15)


def test_local_term_is_the_mean_of_the_images_own_losses() -> None:
    torch.manual_seed(0)
    mapped, teacher = torch.randn(4, 9, 5), torch.randn(4, 9, 7)
    for loss in (sne_loss, pairwise_cosine_loss):
        each = torch.stack([loss(m, t) for m, t in zip(mapped, teacher, strict=True)])
        torch.testing.assert_close(loss(mapped, teacher), each.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [sne_loss, pairwise_cosine_loss])
def test_pair_losses_vanish_on_a_rotation_and_ignore_lengths(loss) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    teacher = torch.from_numpy(rng.normal(size=(50, 16)))
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(16, 16)))[0])
    lengths = torch.from_numpy(rng.uniform(0.1, 10, (50, 1)))
    assert abs(loss(teacher @ rotation * lengths, teacher).item()) < 1e-13


def test_zero_vector_gets_no_gradient() -> None:
    mapped, teacher = (torch.from_numpy(v) for v in _pair(17, "zero vector"))
    for loss in (sne_loss, pairwise_cosine_loss):
        live = mapped.clone().requires_grad_()
        loss(live, teacher).backward()
        assert live.grad is not None
        assert live.grad[0].abs().max() == 0
        assert live.grad[1:].abs().max() > 0


def test_pair_losses_are_exact_under_autocast_and_for_half_inputs() -> None:
    mapped, teacher = (torch.from_numpy(v) for v in _pair(64, "random"))
    for loss in (sne_loss, pairwise_cosine_loss):
        plain = loss(mapped, teacher)
        with torch.autocast("cpu", torch.bfloat16):
            assert loss(mapped, teacher).item() == plain.item()
        live = mapped.half().requires_grad_()
        half = loss(live, teacher.half())
        assert half.dtype == torch.float32
        half.backward()
        assert live.grad is not None
        assert live.grad.dtype == torch.float16


def test_teacher_gets_no_gradient() -> None:
    mapped, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for loss in (sne_loss, pairwise_cosine_loss):
        loss(mapped, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [sne_loss, pairwise_cosine_loss])
def test_pair_losses_refuse_what_is_undefined(loss) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DegenerateError, match="at least 3"):
        loss(torch.randn(2, 4), torch.randn(2, 4))
    with pytest.raises(ShapeError, match=r"\(5, 4\)"):
        loss(torch.randn(5, 4), torch.randn(1, 4))
    broken = torch.randn(5, 4)
    broken[2, 1] = torch.nan
    with pytest.raises(DegenerateError, match="not finite"):
        loss(broken, torch.randn(5, 4))
    with pytest.raises(DegenerateError, match="not finite"):
        loss(torch.randn(5, 4), broken)


def test_sne_refuses_temperatures_that_overflow() -> None:
    x = torch.randn(5, 4)
    for bad in ((), (0.1, 0.001)):
        with pytest.raises(InputError, match=r"0\.003"):
            sne_loss(x, x, temperatures=bad)
    opposed = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    assert torch.isfinite(sne_loss(opposed, torch.randn(4, 3), temperatures=(0.003,)))
    assert len(SNE_TEMPERATURES) == 10


def test_student_cosine_flattens_tokens_or_compares_each() -> None:
    rng = np.random.default_rng(0)
    student, target = rng.normal(size=(2, 4, 5, 3))

    def expected(a: Doubles, b: Doubles) -> float:
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return float(np.mean(1 - np.sum(a * b, axis=-1) / lengths))

    ours = [torch.from_numpy(v.astype(np.float32)) for v in (student, target)]
    flat = expected(student.reshape(4, -1), target.reshape(4, -1))
    assert cosine_student_loss(*ours).item() == pytest.approx(flat, rel=1e-6)
    each = cosine_student_loss(*ours, per_token=True).item()
    assert each == pytest.approx(expected(student, target), rel=1e-6)
    single = cosine_student_loss(ours[0][:, 0], ours[1][:, 0]).item()
    assert single == pytest.approx(expected(student[:, 0], target[:, 0]), rel=1e-6)


def test_student_losses_detach_the_target_and_pass_gradcheck() -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    for fn in (
        cosine_student_loss,
        lambda s, t: cosine_student_loss(s, t, per_token=True),
        proteus_loss,
    ):
        assert torch.autograd.gradcheck(lambda s, fn=fn: fn(s, target.detach()), student)
        fn(student, target).backward()
        assert target.grad is None


def test_student_losses_stay_finite_on_zero_vectors_and_refuse_broadcasting() -> None:
    student = torch.zeros(3, 4, requires_grad=True)
    loss = cosine_student_loss(student, torch.randn(3, 4))
    loss.backward()
    assert loss.item() == 1
    assert student.grad is not None
    assert student.grad.abs().max() == 0
    assert proteus_loss(student, torch.ones(3, 4)).item() == 1
    for fn in (cosine_student_loss, proteus_loss):
        with pytest.raises(ShapeError):
            fn(torch.randn(3, 4), torch.randn(1, 4))


def test_gathering_without_a_process_group_is_the_identity() -> None:
    rows = torch.randn(3, 2)
    assert gather_with_grad(rows) is rows


def test_two_ranks_see_the_loss_and_gradient_of_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, weight = torch.randn(8, 6), torch.randn(4, 6).requires_grad_()
    whole = sne_loss(teacher @ weight.T, teacher)
    whole.backward()
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank, args=(r, tmp_path, teacher.numpy(), weight.detach().numpy()))
        for r in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    results = [np.load(tmp_path / f"{r}.npz") for r in range(2)]
    for result in results:
        np.testing.assert_allclose(result["loss"], whole.item(), rtol=1e-6)
    # DDP averages the gradients of the ranks.
    averaged = (results[0]["gradient"] + results[1]["gradient"]) / 2
    assert weight.grad is not None
    np.testing.assert_allclose(averaged, weight.grad.numpy(), rtol=1e-5, atol=1e-8)


def _rank(
    rank: int, folder: Path, teacher: NDArray[np.float32], weight: NDArray[np.float32]
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mine = torch.from_numpy(teacher[rank * 4 : rank * 4 + 4])
    live = torch.from_numpy(weight).requires_grad_()
    loss = sne_loss(gather_with_grad(mine @ live.T), gather_with_grad(mine))
    loss.backward()
    assert live.grad is not None
    np.savez(folder / f"{rank}.npz", loss=loss.item(), gradient=live.grad.numpy())
    torch.distributed.destroy_process_group()
