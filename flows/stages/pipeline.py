"""A run in plain Python: each stage pulls what it needs, and computes only what is missing."""

from dataclasses import replace
from functools import cached_property

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.root import run_root
from flows.execution.base import Executor
from flows.execution.processes import train_in_processes
from flows.reporting.summary import Row, summary_rows
from flows.stages.evaluate import evaluate
from flows.stages.extract import extract
from flows.stages.index import index
from flows.stages.map import fit
from flows.stages.results import Evaluated, Exported, Finished, Indexed, Mapped, Trained, to_ids
from flows.stages.selection import learnt_from
from flows.stages.tokens import keep_mapped_tokens
from flows.stages.tracking import require_mlflow, track
from flows.stages.train import find_trained, train
from storage.root import Root


class Pipeline:
    """The stages of one run; asking for a result makes sure that it exists.

    Needs no Prefect: ``Pipeline(config).exported`` runs everything.
    """

    def __init__(self, config: RunConfig, executor: Executor | None = None) -> None:
        self.config = config
        self.executor = executor
        """Who computes shards; None: this process."""

    @cached_property
    def root(self) -> Root:
        """Where everything of the run lies."""
        return run_root(self.config)

    @cached_property
    def indexed(self) -> Indexed:
        """The photos of every dataset, with content keys, labels and splits."""
        return index(self.config, self.root)

    @cached_property
    def extracted(self) -> Extracted:
        """The feature caches: what the teachers say of every view."""
        return extract(self.config, self.root, self.indexed, self.executor)

    @cached_property
    def mapped(self) -> Mapped:
        """The mapping from the teacher's width to the student's."""
        return fit(self.config, self.root, self.indexed, self.extracted)

    @cached_property
    def all_caches(self) -> Extracted:
        """All caches; those of tokens through the mapping need the mapping first."""
        if not self.config.cache.keep_mapped:
            return self.extracted
        return keep_mapped_tokens(
            self.config, self.root, self.indexed, self.extracted, self.mapped, self.executor
        )

    @cached_property
    def trained(self) -> Trained:
        """The student; continues from its newest checkpoint."""
        before = (self.config, self.root, self.indexed, self.all_caches, self.mapped)
        if self.config.runtime.processes > 1 and find_trained(*before) is None:
            train_in_processes(self.config, to_ids(self.indexed, self.all_caches, self.mapped))
            trained = find_trained(*before)
            assert trained is not None
            return replace(trained, reused=False)
        return train(*before)

    @cached_property
    def evaluated(self) -> Evaluated:
        """What was measured of the student, on photos that it never saw."""
        return evaluate(
            self.config, self.root, self.indexed, self.extracted, self.mapped, self.trained
        )

    @property
    def finished(self) -> Finished:
        """The student with all that it was made from."""
        return Finished(
            self.config,
            self.root,
            self.indexed,
            self.extracted,
            self.mapped,
            self.trained,
            self.evaluated,
        )

    @cached_property
    def exported(self) -> Exported:
        """The checked ONNX model, with its card and report; in MLflow too, where the run says."""
        require_mlflow(self.config)
        # Only this stage needs ONNX Runtime and Bokeh: machines that train have neither.
        from flows.stages.export import export

        exported = export(self.finished)
        track(self.finished, exported)
        return exported

    def summary(self) -> list[Row]:
        """Return what a person is told of the run at its end."""
        return summary_rows(
            self.config,
            learnt_from(self.config, self.indexed).photos(),
            self.mapped.record,
            self.trained.record,
            self.evaluated.record,
            self.exported.record,
        )
