"""All mutations, and whether they still fit the tree."""

from pathlib import Path

from tests.mutations import caches, decisions, losses, measures, records, roots, training
from tests.mutations.mutation import Mutation, MutationError

MUTATIONS: tuple[Mutation, ...] = (
    *losses.LOSSES,
    *losses.OBJECTIVES,
    *losses.MAPPING,
    *training.VIEWS,
    *training.BATCHES,
    *training.TRAINING,
    *training.EXPORT,
    *measures.METRICS,
    *decisions.DRIFT,
    *decisions.GATES,
    *caches.READING,
    *caches.QUANTISING,
    *caches.WRITING,
    *records.ARTIFACTS,
    *records.LEASES,
    *records.REGISTRY,
    *roots.ROOTS,
    *roots.MANIFESTS,
    *roots.RESUMING,
)


def problems(root: Path) -> list[str]:
    """What is wrong with the list, beside a tree: a sentence each."""
    names = [mutation.name for mutation in MUTATIONS]
    twice = sorted({name for name in names if names.count(name) > 1})
    found = [f"{name}: two mutations have this name." for name in twice]
    found += [problem for mutation in MUTATIONS if (problem := mutation.problem(root))]
    return found


def chosen(names: list[str] | None) -> tuple[Mutation, ...]:
    """Some mutations, by name; all of them for None.

    Raises:
        MutationError: if there is none of a name.
    """
    if not names:
        return MUTATIONS
    known = {mutation.name: mutation for mutation in MUTATIONS}
    for name in names:
        if name not in known:
            raise MutationError(f"There is no mutation {name}; --list names all of them.")
    return tuple(known[name] for name in names)
