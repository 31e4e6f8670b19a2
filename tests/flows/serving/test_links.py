"""Links: a real server is asked, but none inside the network, and no more than is allowed."""

import asyncio
import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.serving.links import Address, Links, is_public
from tintem_core.errors import InputError

_IMAGE = b"an image" * 100


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/image")
            self.end_headers()
            return
        found = _IMAGE * (50 if self.path == "/large" else 1)
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode() if self.path == "/host" else found)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_port}"
        running.shutdown()


def anywhere(address: Address) -> bool:
    return True


def fetched(uri: str, *, allowed: bool = True, may_reach: object = anywhere) -> bytes:
    links = Links(allowed=allowed, most_bytes=10_000, may_reach=may_reach)  # type: ignore[arg-type]
    return asyncio.run(links.image(uri))


def test_what_a_link_points_to_is_fetched(server: str) -> None:
    assert fetched(f"{server}/image") == _IMAGE
    assert fetched(f"{server}/host").decode() == server.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/none", "answers 404"), ("/away", "answers 302"), ("/large", "more than 10,000 bytes")],
)
def test_only_an_image_of_a_bounded_size_is_taken(server: str, path: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fetched(server + path)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://localhost:1/", "not a public one"),
        ("http://127.0.0.1/", "not a public one"),
        ("http://[::1]/", "not a public one"),
        ("http://[::ffff:127.0.0.1]/", "not a public one"),
        ("http://2130706433/", "not a public one"),
        ("http://0x7f.1/", "not a public one"),
        ("http://169.254.169.254/latest/meta-data", "not a public one"),
        ("http://10.0.0.1/", "not a public one"),
        ("http://0.0.0.0/", "not a public one"),
        ("http://x:y@127.0.0.1/", "not a public one"),
        ("http:///x", "no link|not known"),
        ("http://a:b/", "no link"),
        ("file:///etc/passwd", "no data URI"),
        ("ftp://localhost/x", "no data URI"),
        ("data:image/png,abc", "no data URI"),
    ],
)
def test_nothing_inside_the_network_is_asked(uri: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fetched(uri, may_reach=is_public)


def test_links_are_off_unless_they_are_allowed(server: str) -> None:
    with pytest.raises(InputError, match="not fetched here"):
        fetched(f"{server}/image", allowed=False)


def test_public_addresses_are_public() -> None:
    assert is_public(ipaddress.ip_address("8.8.8.8"))
    assert is_public(ipaddress.ip_address("2606:4700::1111"))
    assert not is_public(ipaddress.ip_address("224.0.0.1"))
