"""What a smaller file of a student loses on photos that it never saw, and whether that is too much.

Legend: ``N`` images, ``S`` side in pixels, ``K`` student width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.data.dataset import Dataset
from flows.data.features import evaluation_latents
from flows.data.rendering import eval_source, render
from flows.stages.cache_requests import student_cache_spec
from flows.stages.measure import draws
from flows.stages.measure_outliers import scores_of
from flows.stages.models import load_objective
from flows.stages.results import Finished
from flows.stages.spaces import Classes, Spaces, classes_of, spaces_of
from flows.stages.stored_embeddings import stored_embeddings
from tintem_core.evaluation.bootstrap import MetricRow, bootstrap_interval, mean_row
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.faithfulness import pearson_over_sets
from tintem_core.evaluation.neighbours import knn_predict
from tintem_core.evaluation.ood import auroc
from tintem_core.evaluation.shared_space import shared_knn, shared_space
from tintem_core.evaluation.to_mapped import to_mapped_rows
from tintem_core.export.formats import Embed
from tintem_core.models.embedder import Embedder
from tintem_core.models.student import Student

_MOST_PHOTOS = 1_000


@dataclass(frozen=True)
class Judge:
    """Measures files of one student beside the student itself, on the same photos.

    They are the test photos and those of the OOD sets, a thousand of each at most. The photos that
    neighbours are sought among are the student's own embeddings: a query is what a device sends.
    """

    run: Finished
    student: Student

    def judge(self, embed: Embed) -> dict[str, Any]:
        """Measure one file: its cosine to the student, and each measure beside the student's.

        Returns:
            ``cosine`` (mean over the test photos), ``measures`` (by name: value, low, high and
            ``student``), and ``refused``: what is too much, or None.
        """
        test = self._through(embed, "test", self.test)
        ood = {name: self._through(embed, name, spaces) for name, spaces in self.ood.items()}
        cosine = float((unit_rows(test.student) * unit_rows(self.test.student)).sum(axis=1).mean())
        own = self._own
        found = {
            name: {**row, "student": own[name]["value"]}
            for name, row in self._measured(test, ood).items()
        }
        return {"cosine": cosine, "measures": found, "refused": self._refusal(cosine, found)}

    def _refusal(self, cosine: float, found: dict[str, dict[str, float]]) -> str | None:
        """Say what is too much; two photos that change sides are not, however few there are."""
        settings = self.run.config.export
        # Not "smaller than": what is no number must not pass.
        said = []
        if not cosine >= settings.reduced_cosine:
            said.append(f"its mean cosine to the student is {cosine:.4f}")
            said[-1] += f", wanted {settings.reduced_cosine:g}"
        said += [
            f"{name} falls from {row['student']:.3f} to {row['value']:.3f}"
            for name, row in found.items()
            if not row["student"] - row["value"] <= max(settings.reduced_loss, 2.5 / row["n"])
        ]
        return "; ".join(said) or None

    def _measured(self, test: Spaces, ood: dict[str, Spaces]) -> dict[str, dict[str, float]]:
        rows = [("test", row) for row in self._on_test(test)]
        settings, drawn, classes = self.run.config.evaluation, draws(self.run.config), self._classes
        scores = scores_of(settings, settings.ood_score, self.train, {"test": test, **ood}, classes)
        inside = scores.pop("test")["student"]
        for name, outside in scores.items():
            pair = inside, outside["student"]
            interval = bootstrap_interval(auroc, *pair, **drawn)
            rows.append((name, MetricRow("auroc", auroc(*pair), *interval, len(pair[1]))))
        return {
            f"{dataset}/{row.name}": {
                key: getattr(row, key) for key in ("value", "low", "high", "n")
            }
            for dataset, row in rows
        }

    def _on_test(self, test: Spaces) -> Iterator[MetricRow]:
        drawn = draws(self.run.config)
        asked = test.asked()
        yield pearson_over_sets(test.teacher, test.student if asked is None else asked[2], **drawn)
        known = self.train.asked()
        if asked is not None:
            yield to_mapped_rows(asked[1], asked[2], **drawn)[0]
            yield from shared_space(test.teacher, asked[1], asked[2], **drawn)
        if self._classes is None:
            return
        told, told_test = self._classes.train >= 0, self._classes.of["test"] >= 0
        labels, answers = self._classes.train[told], self._classes.of["test"][told_test]
        k = self.run.config.evaluation.knn
        bank = self.train.student[told]
        _, given = knn_predict(bank, labels, test.student[told_test], min(k, len(bank)))
        yield mean_row("knn", given == answers, **drawn)
        if known is not None and asked is not None:
            yield shared_knn(known[1][told], labels, asked[2][told_test], answers, k, **drawn)

    @cached_property
    def _classes(self) -> Classes | None:
        return classes_of(self._data, {})

    @cached_property
    def _own(self) -> dict[str, dict[str, float]]:
        return self._measured(self.test, self.ood)

    @cached_property
    def _data(self) -> Dataset:
        data = self.run.indexed.data
        return data.without(data.keys("test")[_MOST_PHOTOS:])

    @cached_property
    def _sets(self) -> dict[str, Dataset]:
        return {n: d.without(d.keys()[_MOST_PHOTOS:]) for n, d in self.run.indexed.ood.items()}

    @cached_property
    def train(self) -> Spaces:
        return self._stored(self._data, "train")

    @cached_property
    def test(self) -> Spaces:
        return self._stored(self._data, "test")

    @cached_property
    def ood(self) -> dict[str, Spaces]:
        return {name: self._stored(dataset, None) for name, dataset in self._sets.items()}

    def _stored(self, dataset: Dataset, split: str | None) -> Spaces:
        latents = evaluation_latents(self.run.root, self.run.extracted, dataset, split)
        width = self.run.mapped.record["spec"]["width"]
        spec = student_cache_spec(self.run.config, self.run.trained.id, width, dataset.name)
        (student,) = stored_embeddings(
            self.run.config, self.run.root, spec, self._model, dataset, split
        )
        return spaces_of(self._objective, latents, student)

    def _model(self) -> Embedder:
        return Embedder(self.student, self.run.config.student.image_size)

    @cached_property
    def _objective(self) -> Any:
        return load_objective(self.run.config, self.run.root, self.run.mapped, self.run.trained)

    def _through(self, embed: Embed, name: str, own: Spaces) -> Spaces:
        """See the photos of a set through a file."""
        pixels = self._pixels[name]
        pieces = np.array_split(pixels, max(1, len(pixels) // 32))
        found = np.concatenate([embed(piece) for piece in pieces])
        return spaces_of(self._objective, own.teacher, found)

    @cached_property
    def _pixels(self) -> dict[str, NDArray[np.uint8]]:
        cut = partial(
            render,
            size=self.run.config.student.image_size,
            threads=self.run.config.runtime.decode_threads,
        )
        sources = {"test": eval_source(self.run.config, self._data, "test")}
        sources |= {n: eval_source(self.run.config, d, None) for n, d in self._sets.items()}
        return {name: cut(source, range(len(source.keys))) for name, source in sources.items()}
