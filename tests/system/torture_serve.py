"""`tintem serve`, killed while clients ask: each gets the right answer, or a broken connection."""

import base64
import random
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.photos import encoded, photo
from tests.system.torture_command import Command, TortureError

_CLIENTS = 6
_SECONDS = 60.0
# How long a service answers before it is killed, at most.
_LIFE = 2.0
_SENTENCE = "ended; every request that was taken is answered"


@dataclass
class Asked:
    """What clients got."""

    answers: int = 0
    broken: int = 0
    signals: int = 0
    wrong: list[str] = field(default_factory=list)


def torture_service(folder: Path, draw: random.Random, kills: int) -> Asked:
    """Kill a service so often, and end it by signals in between.

    Args:
        folder: holds the export ``models/exports/small``.
        draw: of every random choice.
        kills: how often.

    Raises:
        TortureError: if a client gets anything but the first answer or a broken connection.
    """
    images = [f"data:image/png;base64,{_base64(seed)}" for seed in range(_CLIENTS)]
    asked, wanted, done = Asked(), None, 0
    while done < kills:
        with Command(folder, ["serve", "models/exports/small", "--port", "0"]) as command:
            url = _url(command)
            with httpx.Client(base_url=url, timeout=_SECONDS, trust_env=False) as client:
                first = [_embedding(client, image) for image in images]
            wanted = wanted or first
            if first != wanted:
                raise TortureError("a service that was started again gives other answers")
            clients = [
                threading.Thread(target=_ask, args=(url, images[n], wanted[n], asked))
                for n in range(_CLIENTS)
            ]
            for each in clients:
                each.start()
            time.sleep(draw.uniform(0, _LIFE))
            if draw.random() < 0.25:
                command.process.send_signal(draw.choice([signal.SIGTERM, signal.SIGINT]))
                command.expect_end(0, _SENTENCE, _SECONDS)
                asked.signals += 1
            else:
                command.kill(with_children=draw.random() < 0.5)
                done += 1
            for each in clients:
                each.join(_SECONDS)
                if each.is_alive():
                    raise TortureError("a client waits still for a service that is gone")
        if asked.wrong:
            raise TortureError(asked.wrong[0])
        print(f"serve: kill {done}, {asked.answers} answers so far", flush=True)
    return asked


def _ask(url: str, image: str, wanted: Any, asked: Asked) -> None:
    """Ask until the connection breaks."""
    with httpx.Client(base_url=url, timeout=_SECONDS, trust_env=False) as client:
        while True:
            try:
                found = _embedding(client, image)
            except httpx.TransportError:
                asked.broken += 1
                return
            except Exception as error:  # noqa: BLE001  # told by the thread that waits
                asked.wrong.append(f"a client got {error!r}")
                return
            asked.answers += 1
            if found != wanted:
                asked.wrong.append("a client got another answer than the first one")
                return


def _embedding(client: httpx.Client, image: str) -> Any:
    answer = client.post("/v1/embeddings", json={"input": image})
    answer.raise_for_status()
    (told,) = answer.json()["data"]
    return told["embedding"]


def _base64(seed: int) -> str:
    return base64.b64encode(encoded(photo(seed))).decode()


def _url(command: Command) -> str:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"(http://\S+)/docs", command.said):
            return found[1]
        if command.process.poll() is not None:
            break
        time.sleep(0.05)
    raise TortureError(f"the service does not start:\n{command.said}")
