"""Time and memory of `sne_loss` against the straightforward loop over temperatures.

Each variant runs forward and backward in its own process; memory is the growth of the peak
resident set over what inputs and libraries take. Run: python benchmarks/sne_loss.py --help
"""

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tintem_core.losses.sne import SNE_TEMPERATURES, sne_loss

TEACHER_WIDTH, STUDENT_WIDTH = 384, 192


class Measured(NamedTuple):
    """loss and gradient norm: to see that both compute the same; seconds: best of the repeats."""

    loss: float
    gradient_norm: float
    seconds: float
    mebibytes: float


def loop_loss(mapped_BK: Tensor, teacher_BD: Tensor) -> Tensor:
    """The formulas of docs/method.md section 1 as one writes them down, in float32 and autograd."""
    count = len(mapped_BK)
    diagonal = torch.eye(count, dtype=torch.bool, device=mapped_BK.device)

    def cosines(rows: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(rows, dim=1)
        return unit @ unit.T

    def joint(cos: Tensor, tau: float) -> Tensor:
        logits = (cos / tau).masked_fill(diagonal, -torch.inf)
        conditional = logits.log_softmax(dim=1).masked_fill(diagonal, 0.0)
        return torch.logaddexp(conditional, conditional.T) - math.log(2 * count)

    teacher_cos, mapped_cos = cosines(teacher_BD), cosines(mapped_BK)
    losses = []
    for tau in SNE_TEMPERATURES:
        p, q = joint(teacher_cos, tau), joint(mapped_cos, tau)
        losses.append((p.exp() * (p - q)).masked_fill(diagonal, 0.0).sum())
    return torch.stack(losses).mean()


VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"loop": loop_loss, "ours": sne_loss}


def measure(name: str, count: int, repeats: int, threads: int) -> Measured:
    """Forward and backward of one variant, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    teacher = torch.randn(count, TEACHER_WIDTH)
    mapping = torch.randn(TEACHER_WIDTH, STUDENT_WIDTH) / TEACHER_WIDTH**0.5
    start = teacher @ mapping
    # A small first call brings in lazily loaded libraries before the baseline is taken.
    tiny = start[:8].clone().requires_grad_()
    torch.autograd.grad(VARIANTS[name](tiny, teacher[:8]), tiny)
    before = _peak_mebibytes()
    best = math.inf
    for _ in range(repeats):
        mapped = start.clone().requires_grad_()
        began = time.perf_counter()
        loss = VARIANTS[name](mapped, teacher)
        (gradient,) = torch.autograd.grad(loss, mapped)
        best = min(best, time.perf_counter() - began)
    memory = _peak_mebibytes() - before
    return Measured(loss.item(), gradient.norm().item(), best, memory)


def _peak_mebibytes() -> float:
    # Linux counts kibibytes, macOS bytes.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {options.threads} CPU thread(s), "
        f"{len(SNE_TEMPERATURES)} temperatures, {TEACHER_WIDTH} -> {STUDENT_WIDTH}, "
        f"forward + backward, best of {options.repeats}"
    )
    print(f"{'n':>5} {'variant':>8} {'seconds':>9} {'peak MiB':>9} {'loss':>10} {'|grad|':>11}")
    for count in options.sizes:
        found = {}
        for name in VARIANTS:
            # A process of its own: a peak is never forgotten by the process that reached it.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[name] = pool.apply(measure, (name, count, options.repeats, options.threads))
            m = found[name]
            print(
                f"{count:>5} {name:>8} {m.seconds:>9.4f} {m.mebibytes:>9.1f} {m.loss:>10.6f} "
                f"{m.gradient_norm:>11.8f}"
            )
        loop, ours = found["loop"], found["ours"]
        print(
            f"{count:>5}   ratio: {loop.seconds / ours.seconds:.2f}x faster, "
            f"{ours.mebibytes / loop.mebibytes:.2f} of the memory"
        )


if __name__ == "__main__":
    main()
