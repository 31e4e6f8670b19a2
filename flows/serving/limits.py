"""How much a service takes: of one request, and of all that are under way."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MIB = 2**20
# A client that is still sending hears an answer only once it has sent what it wants to.
_DRAINED = 4


@dataclass(frozen=True)
class Limits:
    """What is refused."""

    megabytes: int = 32
    """MiB of one request."""
    megabytes_together: int = 256
    """MiB of all requests under way."""
    images: int = 64
    """In one request."""
    pixels: int = 50_000_000
    """Of one image, before it is decoded."""
    waiting: int = 512
    """Images that may wait."""


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return what a refused request is told, in the shape that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class BodyLimit:
    """Refuses bodies that are too large, while they come in."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0

        async def measured() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken += size
            self._held += size
            self._refuse(taken)
            return message

        try:
            self._refuse(_announced(scope))
        except HTTPException as refused:
            await _drain(receive, _DRAINED * self._limits.megabytes * _MIB)
            body = error_body(refused.status_code, str(refused.detail))
            answer = JSONResponse(body, refused.status_code, refused.headers)
            await answer(scope, receive, send)
            return
        try:
            await self._app(scope, measured, send)
        finally:
            self._held -= taken

    def _refuse(self, size: int) -> None:
        if size > self._limits.megabytes * _MIB:
            raise HTTPException(
                413, f"the request has more than {self._limits.megabytes} MiB: send fewer images."
            )
        if self._held + size > self._limits.megabytes_together * _MIB:
            raise HTTPException(
                503,
                "the requests under way have more than "
                f"{self._limits.megabytes_together} MiB: ask again in a moment.",
                {"Retry-After": "1"},
            )


def _announced(scope: MutableMapping[str, Any]) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _drain(receive: Receive, most: int) -> None:
    while most > 0:
        message = await receive()
        most -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return
