"""`tintem up` runs everything that deployments need on this machine; `tintem down` ends it."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.command import ConfigPath, console, example
from flows.orchestration.ephemeral import is_prefect, require_server

if TYPE_CHECKING:
    from flows.orchestration.services import Services


app = typer.Typer()
_ELSEWHERE = "if it is another machine's, start it there, or unset PREFECT_API_URL."
_STUCK = "`tintem down` ends what is left of it, `tintem up` starts it anew."
Port = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="where the server listens, 4200 if free"),
]


@app.command(epilog=example("tintem up"))
def up(port: Port = None) -> None:
    """Start a Prefect server and a worker in the background, and deploy every flow.

    With PREFECT_API_URL set to a server that runs already, only the worker is started.
    """
    from flows.orchestration.services import Services, given_api, given_port, refuse_taken
    from tintem_core.errors import InputError

    services = Services.of_this_user()
    _show_key(services)
    given = given_api()
    wanted = f"http://127.0.0.1:{port or given_port()}/api"
    url = given or services.api_url()
    if url is not None and port is not None and f":{port}/" not in url:
        raise InputError(f"a server is up already, at {url}: use it, without --port.")
    if services.worker_url() not in (None, url or wanted):
        raise InputError(
            f"a worker for {services.worker_url()} is up already: `tintem down` ends it."
        )
    if url is not None:
        require_server(url, _ELSEWHERE if given else _STUCK)
    else:
        refuse_taken(port or given_port())
    with services.undone_on_error() as begun:
        if url is None:
            console.print("starting the server …", highlight=False)
            url = services.start_server(port or given_port())
        os.environ["PREFECT_API_URL"] = url
        from flows.orchestration.deployments import INSTALLED, deploy

        if deploy():
            console.print("deployed every flow", highlight=False)
        if services.worker() is None:
            _tell_the_dead(services, url)
            services.start_worker(url, INSTALLED)
    _tell(url, services.home, "up" if begun() else "up already")


@app.command("deploy", epilog=example("tintem deploy"))
def deploy_() -> None:
    """Deploy every flow to the server of PREFECT_API_URL, or of `tintem up`."""
    _use_server()
    from flows.orchestration.deployments import deploy

    console.print("deployed every flow" if deploy() else "deployed already", highlight=False)


@app.command(epilog=example("tintem down"))
def down() -> None:
    """End the server and the worker of `tintem up`; what was killed goes on another time."""
    from flows.orchestration.services import Services

    services = Services.of_this_user()
    _show_key(services)
    ended = services.stop_worker()
    url = services.api_url()
    try:
        if url is not None and is_prefect(url):
            os.environ["PREFECT_API_URL"] = url
            _tell_the_dead(services, url)
    finally:
        # Whatever a server in the midst of its start answers.
        ended += services.stop_server()
    console.print(f"down: ended {ended} processes" if ended else "down already", highlight=False)


def _tell_the_dead(services: "Services", url: str) -> None:
    """Show the runs of this machine's own server as crashed that no longer have a process."""
    if services.api_url() != url:
        return
    from flows.orchestration.dead_runs import declare_dead
    from flows.orchestration.services import living_runs, living_workers, worker_name

    dead = declare_dead(living_runs, worker_name(), living_workers(url))
    if dead:
        console.print(
            f"{dead} runs had been killed, and are shown as Crashed: started again, they go on "
            "where they were",
            highlight=False,
            soft_wrap=True,
        )


@app.command(
    epilog=example('prefect deployment run distill/adhoc --params "$(tintem params tintem.yaml)"')
)
def params(config: ConfigPath) -> None:
    """Print a config as the parameters of a deployment: JSON, for `prefect deployment run`."""
    sys.stdout.write(json.dumps(_parameters(config)) + "\n")


@app.command(
    epilog=example("tintem schedule tintem.yaml --cron '0 2 * * *' --timezone Europe/Berlin")
)
def schedule(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="what every night is to do")
    ] = None,
    cron: Annotated[str | None, typer.Option(help="when, such as '0 2 * * *'")] = None,
    timezone: Annotated[str | None, typer.Option(help="of that time: Europe/Berlin")] = None,
    off: Annotated[bool, typer.Option("--off", help="let no more night begin")] = False,
) -> None:
    """Let nightly runs of a config begin by themselves, on the server of `tintem up`."""
    from tintem_core.errors import InputError

    if off == (config is not None):
        raise InputError("give either the config of the nights, or --off.")
    parameters = None if config is None else _parameters(config, checked=True)
    _use_server()
    from flows.orchestration.deployments import schedule_nights

    when = schedule_nights(parameters, cron, timezone)
    sentence = "no more nights begin" if off else f"nights begin at {when.cron} ({when.timezone})"
    console.print(sentence, highlight=False)
    if not off:
        console.print(
            f"they have {config} as it is now: after a change of it, the same command again",
            highlight=False,
            soft_wrap=True,
        )


def _show_key(services: "Services") -> None:
    """Show the server of this user the key that it is, or will be, started with."""
    key = services.key() or os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if key:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", key)


def _use_server() -> None:
    from flows.orchestration.services import Services
    from tintem_core.errors import InputError

    given, services = os.environ.get("PREFECT_API_URL"), Services.of_this_user()
    url = given or services.api_url()
    if url == services.api_url():
        _show_key(services)
    if url is None:
        raise InputError("there is no Prefect server: `tintem up` starts one.")
    require_server(url, f"`tintem up` starts one here; {_ELSEWHERE}" if given else _STUCK)
    os.environ["PREFECT_API_URL"] = url


def _parameters(path: Path, checked: bool = False) -> dict[str, Any]:
    from flows.config.load import load_config

    config = load_config(path)
    if checked:
        from flows.stages.preflight import preflight

        preflight(config)
    # What the config leaves out stays out, so that defaults may depend on what is set.
    return {"config": config.model_dump(mode="json", exclude_unset=True)}


def _tell(url: str, logs: Path, state: str) -> None:
    page = url.removesuffix("/api")
    console.print(f"{state}: [bold]{page}[/bold], logs in {logs}", highlight=False, soft_wrap=True)
    console.print(
        f"\nNext:\n  export PREFECT_API_URL={url}\n"
        '  prefect deployment run distill/adhoc --params "$(tintem params tintem.yaml)"',
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
