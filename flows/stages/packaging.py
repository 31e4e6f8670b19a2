"""The formats of a student: each is converted, checked on real photos, and kept or left out.

Legend: ``N`` images, ``S`` side in pixels, ``K`` student width.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flows.config.run import RunConfig
from flows.data.rendering import ViewSource
from flows.reporting.base import Advance, reporter
from flows.stages.reduced import Judge
from tintem_core.errors import NotApplicableError
from tintem_core.export.formats import FORMATS, Embed, Subject, export_format
from tintem_core.export.latency import speeds
from tintem_core.export.loaders import LOADERS
from tintem_core.export.parity import Verification, answers, verify
from tintem_core.views import Pixels
from tintem_pixels import centre_crop

_VECTORS = 8
_REDUCED_COSINE = 0.999
_PHOTOS_OF_LOADERS = 64


@dataclass
class Package:
    """What is published of a student."""

    files: dict[str, bytes] = field(default_factory=dict)
    formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was found out about each format that is among the files."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why each of the others is not."""
    reduced: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was measured of the formats of less precision, those that were refused too."""
    opened: dict[str, Embed] = field(default_factory=dict)


def package(
    config: RunConfig, subject: Subject, pixels: Pixels, judge: Judge, advance: Advance
) -> Package:
    """Convert a student into every format of the config.

    Args:
        config: the run.
        subject: the student.
        pixels: real photos, uint8 (N, S, S, 3).
        judge: measures what has less precision.
        advance: called with 1 after each format.

    Raises:
        VerificationError: if an exact format differs from the student.
    """
    found, wanted = Package(), answers(subject.student, pixels)
    # In the order of the registry: where two write the same file, the last one's counts.
    for name in (each for each in FORMATS if each in config.export.formats):
        form = export_format(name)
        try:
            files = form.files(subject)
            embed = form.open(files)
            least = config.export.minimum_cosine if form.is_exact else -1.0
            checked = verify(
                embed, wanted, pixels, batch_sizes=form.batch_sizes, minimum_cosine=least
            )
            if not form.is_exact:
                found.reduced[name] = judge.judge(embed)
                if (why := found.reduced[name]["refused"]) is not None:
                    raise NotApplicableError(f"refused: {why}")
                # Another processor rounds otherwise: what is checked there may be twice as far.
                least = min(_REDUCED_COSINE, 2 * checked.smallest_cosine - 1)
        except NotApplicableError as error:
            found.left_out[name] = str(error)
            reporter().note(f"{form.file} is left out: {error}")
        else:
            found.files |= files
            found.opened[name] = embed
            found.formats[name] = {
                "file": form.file,
                "bytes": len(files[form.file]),
                "minimum_cosine": least,
                **as_record(checked),
                "speed_ms": speeds(files[form.file]) if form.file.endswith(".onnx") else None,
            }
        advance(1)
    return found


def vectors(embed: Embed, pixels: Pixels) -> bytes:
    """Return an .npz of some photos and their embeddings, which `verify.py` looks at."""
    images = pixels[:_VECTORS]
    held = io.BytesIO()
    np.savez(held, images=images, embeddings=embed(images))
    return held.getvalue()


def loader_cosines(source: ViewSource, rows: range, size: int, embed: Embed) -> dict[str, Any]:
    """Return how near the embeddings of others' views of a photo come to those of our own.

    Returns:
        By loader, ``mean`` and ``smallest`` cosine; and ``photos``.
    """
    images = [source.image(row) for row in rows[:_PHOTOS_OF_LOADERS]]
    own = embed(np.stack([centre_crop(image, size) for image in images]))
    return {
        "photos": len(images),
        **{
            name: _cosines(own, embed(np.stack([view(image, size) for image in images])))
            for name, view in LOADERS.items()
        },
    }


def _cosines(a: Any, b: Any) -> dict[str, float]:
    products = (a.astype(np.float64) * b).sum(axis=1)
    cosines = products / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"mean": float(cosines.mean()), "smallest": float(cosines.min())}


def as_record(checked: Verification) -> dict[str, Any]:
    """Return a check as a record holds it."""
    return {
        "photos": checked.images,
        "batch_sizes": checked.batch_sizes,
        "smallest_cosine": checked.smallest_cosine,
        "largest_difference": checked.largest_difference,
    }
