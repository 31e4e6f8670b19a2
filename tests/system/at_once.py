"""Processes that work on one root until they are told to stop; see test_many_at_once.py.

python -m tests.system.at_once ROLE CONFIG FOLDER
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.errors import MissingObjectError
from storage.root import open_root

STOP, REFERENCE, SAID = "stop", "reference.npz", "said"
# Which photos share a batch changes the last bits of an embedding, and nothing else.
_SAME = 0.99999
_BATCH = 16
_SEEDS = 3


def main() -> None:
    role, config, folder = sys.argv[1], load_config(sys.argv[2]), Path(sys.argv[3])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    work = WORK[role](config, folder)
    (folder / SAID).mkdir(exist_ok=True)
    with (folder / SAID / f"{role}.jsonl").open("a") as said:
        while not (folder / STOP).exists():
            begun = time.time()
            done = work()
            said.write(json.dumps({"role": role, "begun": begun, "done": done}) + "\n")
            said.flush()


def _extract(config: RunConfig, _folder: Path) -> Callable[[], int]:
    return lambda: len(Pipeline(config).extracted.evaluation_caches)


def _night(config: RunConfig, _folder: Path) -> Callable[[], str]:
    return lambda: RetrainingRun(config).run().outcome


def _train(config: RunConfig, _folder: Path) -> Callable[[], str]:
    seeds = iter(range(10**9))

    def train() -> str:
        return Pipeline(variant(config, {"training.seed": 100 + next(seeds) % _SEEDS})).trained.id

    return train


def _read(config: RunConfig, folder: Path) -> Callable[[], int]:
    """Compare rows drawn at random with what the teacher said of these photos before."""
    root, draw = open_root(config.root), np.random.default_rng()
    with np.load(folder / REFERENCE) as stored:
        wanted = {
            cache: (list(stored[f"{cache}/keys"]), stored[cache].astype(np.float64))
            for cache in stored.files
            if not cache.endswith("/keys")
        }

    def read() -> int:
        compared = 0
        for cache_id, (keys, embeddings_VND) in wanted.items():
            try:
                cache = FeatureCache.open(root, cache_id)
            except MissingObjectError:
                continue
            gone = set(cache.missing(keys))
            there = [place for place, key in enumerate(keys) if key not in gone]
            if not there:
                continue
            reader = cache.reader([keys[place] for place in there])
            rows = draw.integers(len(there), size=_BATCH)
            views = draw.integers(len(embeddings_VND), size=_BATCH)
            got_BD = reader.take(views, rows).astype(np.float64)
            for view, row, got_D in zip(views, rows, got_BD, strict=True):
                place, known_ND = there[row], embeddings_VND[view]
                cosines = (
                    known_ND @ got_D / np.linalg.norm(known_ND, axis=1) / np.linalg.norm(got_D)
                )
                assert cosines.argmax() == place, (cache_id, keys[place], view)
                assert cosines[place] > _SAME, (cache_id, keys[place], view, cosines[place])
                compared += 1
        return compared

    return read


WORK = {"extract": _extract, "night": _night, "train": _train, "read": _read}

if __name__ == "__main__":
    main()
