"""What Prometheus reads of a service."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
# Others would be a series each.
_PATHS = ("/v1/embeddings", "/embed", "/v1/models", "/health")


class Measures:
    """What Prometheus reads."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tintem_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tintem_request_seconds", "Seconds to an answer.", ["path"], registry=self.registry
        )
        self.images = Counter("tintem_images", "Images embedded.", registry=self.registry)
        self.batch = Histogram(
            "tintem_batch_images", "Images in a batch.", buckets=_BATCHES, registry=self.registry
        )
        Gauge("tintem_waiting_images", "Images that wait.", registry=self.registry).set_function(
            waiting
        )


class Measured:
    """Counts and times requests."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app, self._measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path not in _PATHS:
            await self._app(scope, receive, send)
            return
        status = 500

        async def heard(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, heard)
        finally:
            self._measures.seconds.labels(path).observe(time.perf_counter() - started)
            self._measures.requests.labels(path, str(status)).inc()
