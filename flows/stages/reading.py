"""How a run reads caches on this machine: what is copied, what is held, and whether it fits."""

from collections.abc import Sequence

from rich.filesize import decimal

from flows.config import RunConfig
from flows.reporting import reporter
from storage.cache import FeatureReader
from storage.root import Reading, Root, open_root


def run_root(config: RunConfig) -> Root:
    """Open the root of a run; its caches are read as the config says."""
    runtime = config.runtime
    reading = Reading(
        copies_folder=runtime.copies_folder,
        copies_bytes=None if runtime.copies_gb is None else int(runtime.copies_gb * 1e9),
        memory_bytes=int(runtime.latents_memory_gb * 1e9),
    )
    return open_root(config.root, reading)


def note_what_does_not_fit(readers: Sequence[FeatureReader]) -> None:
    """Say so when shards would be fetched again and again, because not all copies fit at once."""
    copied = [(reader.copies, reader.bytes) for reader in readers if reader.copies is not None]
    if not copied:
        return
    folder, needed = copied[0][0], sum(size for _, size in copied)
    if needed > folder.limit_bytes:
        reporter().note(
            f"the training reads {decimal(needed)} of embeddings in random order, but only "
            f"{decimal(folder.limit_bytes)} of copies may lie in {folder.folder}: nearly every "
            "step fetches shards again, and waits for them. Set runtime.copies_gb to "
            f"{1.05 * needed / 1e9:.2g} or more, or choose cache.dtype int8 or fewer views"
        )
