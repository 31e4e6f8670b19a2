"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="the run's config")]
Target = Annotated[str, typer.Argument(metavar="CONFIG-or-ROOT", help="a run's config, or a root")]
CacheId = Annotated[str | None, typer.Argument(metavar="CACHE", help="this cache only")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
