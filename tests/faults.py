"""A proxy before an HTTP server that fails as servers do: a drawn share of the requests."""

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "503", "dropped", "answer lost", "slow")


class FaultyProxy:
    """What fails, how often, and what has failed so far.

    Args:
        target: host and port of the server.
        share: of the requests.
        seed: of what is drawn.
    """

    def __init__(self, target: str, share: float, seed: int) -> None:
        self.target, self.share = target, share
        self.failed: Counter[str] = Counter()
        self._drawn = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> str | None:
        """Return what happens to the next request; None: nothing."""
        with self._lock:
            fault = None
            if self._drawn.random() < self.share:
                fault = self._drawn.choice(FAULTS)
                self.failed[fault] += 1
            return fault

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on a free port; yields the URL."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy.draw()
                if fault == "dropped":
                    self.close_connection = True
                    return
                if fault in ("500", "503"):
                    self._answer(int(fault), [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                if fault == "slow":
                    time.sleep(0.5)
                server = http.client.HTTPConnection(proxy.target, timeout=60)
                server.request(self.command, self.path, body, dict(self.headers))
                found = server.getresponse()
                data = found.read()
                server.close()
                if fault == "answer lost":
                    self.close_connection = True
                    return
                self._answer(found.status, found.getheaders(), data)

            def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
                self.send_response(status)
                ours = ("transfer-encoding", "connection", "date", "server")
                length = "0"
                for name, value in headers:
                    if name.lower() == "content-length":
                        length = value
                    elif name.lower() not in ours:
                        self.send_header(name, value)
                # Of a HEAD, the length is that of what is not sent.
                is_head = self.command == "HEAD"
                self.send_header("Content-Length", length if is_head else str(len(data)))
                self.end_headers()
                if not is_head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
