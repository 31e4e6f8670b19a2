"""The root of a run."""

from flows.config.run import RunConfig
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
