"""Trains the students of the method benchmark, all from the same pixels and embeddings."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from _datasets import BATCH, STUDENT_SIZE, WIDTH, Array, Budget, Material
from torch import Tensor, nn

from flows.config.run import RunConfig
from flows.data.features import evaluation_rows, taught_latents
from flows.data.loader import PixelStore, StepDataset, Taught, batches_from
from flows.data.rendering import eval_source, renderer
from flows.stages.cache_requests import taught_views
from flows.stages.map import mean_target
from flows.stages.models import new_objective
from flows.stages.spaces import Spaces, spaces_of
from flows.stages.training_data import class_numbers
from storage.images import SourceConfig
from tintem_core.models.device import place
from tintem_core.models.embedder import to_float
from tintem_core.models.student import build_student
from tintem_core.objectives.base import Targets
from tintem_core.objectives.mapped import MatchMapped
from tintem_core.objectives.terms import TermWeights
from tintem_core.training.loop import train
from tintem_core.training.state import start_training

_KEPT_BYTES = 2**32


class Students:
    """Trains and embeds on one data set; its pixels are rendered once, for all processes."""

    def __init__(self, material: Material, budget: Budget) -> None:
        self.material, self._budget = material, budget
        config, indexed = material.config, material.pipeline.indexed
        self._taught = {}
        for number, (source, recipe) in enumerate(taught_views(config)):
            dataset = indexed.dataset(source.name)
            split = "train" if dataset is indexed.data else None
            rendered = renderer(config, dataset, split, recipe)
            views = 1 if number else config.views.count
            pixels = PixelStore(rendered, STUDENT_SIZE, views, _KEPT_BYTES)
            self._taught[_name(source, recipe.name)] = (pixels, dataset, split, number)
        self._measured = {
            # The evaluation view of the training photos is learnt from, so it is there already.
            "train": self._taught[_name(config.data, "eval")][0],
            "test": _evaluation_pixels(material, config.data.name, "test"),
            "strange": _evaluation_pixels(material, material.strange, None),
        }

    def trained(self, config: RunConfig, whitening: float = 0.0) -> dict[str, Spaces]:
        """Train one student; return its embeddings of every set, next to the teacher's.

        Args:
            config: of the student.
            whitening: see :class:`Whitened`.
        """
        training, budget = config.training, self._budget
        pipeline = self.material.pipeline_with(config)
        numbers, classes = class_numbers(pipeline.indexed)
        is_supervised = training.kind.needs_labels
        taught, *further = self._learnt_from(config)
        dataset = StepDataset(
            taught,
            BATCH,
            training.seed,
            evaluation=further.pop(0) if config.evaluation_view else None,
            evaluation_share=config.evaluation_view,
            support=further,
            support_share=training.support if further else 0.0,
            labels=numbers if is_supervised else None,
        )
        known = evaluation_rows(
            pipeline.root,
            pipeline.extracted,
            config.data.name,
            pipeline.indexed.data.keys("train"),
        )
        objective = new_objective(
            config,
            pipeline.root,
            pipeline.mapped,
            len(classes),
            mean_target(config, pipeline.root, pipeline.mapped, known),
        )
        if whitening:
            assert isinstance(objective, MatchMapped)
            objective = Whitened(objective, training, self.material.teacher["train"], whitening)
        student = place(build_student(config.student, WIDTH, training.seed), "cpu")
        # The same numbers in another order, half as fast again on CPUs.
        student = student.to(memory_format=torch.channels_last)
        run = start_training(student, objective, training, budget.steps_per_epoch)
        train(
            run,
            batches_from(dataset, 0, training.epochs * budget.steps_per_epoch, 0),
            training,
            budget.steps_per_epoch,
            save=lambda _step, _checkpoint: None,
            save_every_s=math.inf,
        )
        result, teacher = run.result, self.material.teacher
        return {
            name: spaces_of(result.objective, teacher[name], _embed(result.student, pixels))
            for name, pixels in self._measured.items()
        }

    def _learnt_from(self, config: RunConfig) -> Iterator[Taught]:
        """Yield the views that this student learns from, of those that any of them does."""
        pipeline = self.material.pipeline
        for source, recipe in taught_views(config):
            pixels, dataset, split, number = self._taught[_name(source, recipe.name)]
            latents = taught_latents(pipeline.root, pipeline.extracted, dataset, split, number)
            yield Taught(pixels, latents)


class Whitened(MatchMapped):
    """TinTeM with a centred term in which rare directions count for more.

    What is left of a unit vector without the mean target is multiplied by C^(-power / 2), C the
    covariance of the mapped training photos, before the cosine is taken: 1 is full whitening.
    Tried, and no part of the product.
    """

    def __init__(
        self, plain: MatchMapped, weights: TermWeights, teacher: Array, power: float
    ) -> None:
        super().__init__(plain.mapping, None, weights, centre=plain.centre)
        with torch.no_grad():
            mapped = nn.functional.normalize(self.mapping(torch.from_numpy(teacher)), dim=-1)
        values, vectors = torch.linalg.eigh(torch.cov(mapped.T.double()))
        scale = values.clamp_min(values.max() * 1e-4) ** (-power / 2)
        self._whiten = ((vectors * scale) @ vectors.T).float()

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        del tokens_BTK
        sides = [
            nn.functional.normalize(side, dim=-1)
            for side in self.compared(embedding_BK, targets.latents)
        ]
        cosine = nn.functional.cosine_similarity
        student, mapped = ((side - self.centre) @ self._whiten for side in sides)
        return 2 - cosine(*sides).mean() - cosine(student, mapped).mean()


def _name(source: SourceConfig, recipe: str) -> str:
    return f"{source.name} {recipe}"


def _evaluation_pixels(material: Material, name: str, split: str | None) -> PixelStore:
    dataset = material.pipeline.indexed.dataset(name)
    source = eval_source(material.config, dataset, split)
    return PixelStore(source, STUDENT_SIZE, 1, _KEPT_BYTES)


@torch.inference_mode()
def _embed(student: torch.nn.Module, pixels: PixelStore) -> Array:
    parts = []
    for rows in np.array_split(np.arange(pixels.images), math.ceil(pixels.images / 256)):
        taken = torch.from_numpy(pixels.take(np.zeros_like(rows), rows))
        parts.append(student(to_float(taken, torch.device("cpu"))))
    return torch.cat(parts).numpy()
