"""What labels make of the student, against the same network that knows nothing yet.

Legend: ``N`` labelled test photos, ``K`` student width.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.rendering import eval_source, render
from flows.reporting.base import reporter
from flows.stages.models import TENSORS, load_embedder, load_objective
from flows.stages.results import Indexed, Mapped, Trained
from flows.stages.spaces import Found
from flows.stages.train import train
from storage.artifacts import read_file
from storage.root import Root
from tintem_core.evaluation.bootstrap import Draws, mean_row
from tintem_core.evaluation.metrics import SCRATCH
from tintem_core.objectives.labels import MatchLabels

SEEDS = 3
_BATCH = 64


def fine_tuned_rows(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    trained: Trained,
    drawn: Draws,
) -> Found:
    """Train the student on all labels, and the same network from scratch, and compare them.

    Both get the same recipe, photos, views and epochs, three seeds each; a training that was killed
    goes on where it was. An interval is over photos, of the mean over seeds.

    Yields:
        ``fine_tuned``, the accuracy on the test photos that have a label, of ``student`` and of
        ``from scratch``; ``fine_tuned_gain``, how much the first has more.
    """
    labelled = replace(indexed, data=_with_labels(indexed.data))
    labels = list(labelled.data.labels("test"))
    known = [label for label in labelled.data.labels("train") if label is not None]
    if len(set(known)) < 2 or not labels:
        reporter().note(
            f"{indexed.data.name} is not fine-tuned on: that takes photos of two classes to learn "
            "from, and labelled test photos"
        )
        return
    usual = max(sorted(set(known)), key=known.count)
    chance = float(np.mean([label == usual for label in labels]))
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / TENSORS
        start.write_bytes(read_file(root, "students", trained.id, TENSORS))
        right = {}
        for who, weights in (("student", str(start)), (SCRATCH, None)):
            by_seed = []
            for seed in range(SEEDS):
                run = _recipe(config, weights, seed)
                tuned = train(run, root, labelled, extracted, mapped)
                by_seed.append(_right(run, root, labelled, labels, mapped, tuned))
            right[who] = np.mean(by_seed, axis=0)
    for who, right_N in right.items():
        yield who, "test", mean_row("fine_tuned", right_N, **drawn, chance=chance)
    gain_N = right["student"] - right[SCRATCH]
    yield "student", "test", mean_row("fine_tuned_gain", gain_N, **drawn, chance=0.0)


def _recipe(config: RunConfig, weights: str | None, seed: int) -> RunConfig:
    """Return the run of one training on labels."""
    student = {"pretrained": False, "weights": weights, "partial_weights": False}
    training = {
        "objective": "supervised",
        "epochs": config.evaluation.fine_tune_epochs,
        "seed": config.training.seed + seed,
        # Labels say nothing of these.
        "support": 0.0,
        "local_weight": 0.0,
        "centred_weight": 0.0,
        "extends": None,
        "select": "last",
    }
    changes = {
        "student": student,
        "training": training,
        "mapping": {"fit": "once"},
        "cache": {"keep_mapped": False},
        "sweep": None,
    }
    return variant(config, changes, "evaluation.fine_tune_epochs")


def _with_labels(data: Dataset) -> Dataset:
    without = [key for key, label in zip(data.keys(), data.labels(), strict=True) if label is None]
    return data.without(without)


def _right(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    labels: list[str | None],
    mapped: Mapped,
    trained: Trained,
) -> NDArray[np.float64]:
    """Return 1 for each test photo that is told right, else 0: (N,)."""
    embedder = load_embedder(config, root, mapped, trained)
    objective = load_objective(config, root, mapped, trained)
    assert isinstance(objective, MatchLabels)
    source = eval_source(config, indexed.data, "test")
    names, told = np.array(trained.record["classes"]), []
    for first in range(0, len(source.keys), _BATCH):
        rows = range(first, min(first + _BATCH, len(source.keys)))
        pixels = render(source, rows, config.student.image_size, config.runtime.decode_threads)
        embedding = torch.from_numpy(embedder.embed(pixels).embedding)
        with torch.inference_mode():
            told.append(names[objective.head(embedding).argmax(dim=1).numpy()])
    return np.asarray(np.concatenate(told) == np.array(labels), np.float64)
