"""What every command shares: its arguments, its consoles, what runs before and after it."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="the run's config")]
Target = Annotated[str, typer.Argument(metavar="CONFIG-or-ROOT", help="a run's config, or a root")]
CacheId = Annotated[str | None, typer.Argument(metavar="CACHE", help="this cache only")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
WIDEST = 10_000
console = Console()
errors = Console(stderr=True)


def example(*calls: str) -> str:
    """Return the end of a command's help: how it is called."""
    # Typer makes one line of lines that no empty one parts.
    return "\n\n".join(["Example:" if len(calls) == 1 else "Examples:", *calls])


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")


def print_table(table: Table) -> None:
    """Print a table; where nobody looks at a terminal, as wide as it is, so that ids stay whole."""
    (console if console.is_terminal else Console(width=WIDEST)).print(table)


if TYPE_CHECKING:
    from flows.config.run import RunConfig


@contextlib.contextmanager
def running(path: Path, *, check: bool = True) -> Iterator["RunConfig"]:
    """Read a config; let the flows called inside the block report to this terminal.

    They run on the user's Prefect server where one is configured, else on a private one.

    Args:
        path: of the config.
        check: build the models first; False where the flow does so once there is work for them.

    Raises:
        InputError: if the config is missing or does not describe a run that can start.
    """
    from flows.config.load import load_config
    from flows.config.settings import refuse_missing
    from flows.orchestration.ephemeral import ensure_server, no_heartbeats

    started = time.monotonic()
    # Said before a server starts, and torch is imported.
    refuse_missing(path)
    config = load_config(path)
    with ensure_server() as server:
        # The server starts while torch is imported and the models are built.
        from flows.reporting.base import reporting_to
        from flows.reporting.terminal import TerminalReporter
        from flows.stages.preflight import preflight

        if check:
            preflight(config)
        with reporting_to(TerminalReporter(console)), no_heartbeats(server):
            if server is not None:
                server.wait()
            console.print(f"[dim]· ready after {time.monotonic() - started:.1f} s[/dim]")
            yield config
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
