"""Images in a request: data URIs, and links where they are allowed."""

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from tintem_core.errors import InputError

_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)
_SECONDS = 10.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address lies outside this machine and its own network."""
    return address.is_global and not address.is_multicast


class Links:
    """Fetches what links point to; see :meth:`image`."""

    def __init__(
        self, *, allowed: bool, most_bytes: int, may_reach: Callable[[Address], bool] = is_public
    ) -> None:
        """Decide what is fetched.

        Args:
            allowed: whether http(s) links are.
            most_bytes: of one image.
            may_reach: addresses that are asked.
        """
        self._allowed, self._most_bytes, self._may_reach = allowed, most_bytes, may_reach

    async def image(self, uri: str) -> bytes:
        """Return the encoded image of a data URI or link.

        Raises:
            InputError: with one sentence, if there is none.
        """
        if head := _DATA.match(uri):
            try:
                return base64.b64decode(uri[head.end() :], validate=True)
            except (binascii.Error, ValueError) as error:
                raise InputError("its base64 is damaged") from error
        if not uri.startswith(("http://", "https://")):
            raise InputError("it is no data URI: send data:image/jpeg;base64,…")
        if not self._allowed:
            raise InputError("links are not fetched here: send data:image/jpeg;base64,…")
        return await self._fetched(uri)

    async def _fetched(self, uri: str) -> bytes:
        try:
            url = httpx.URL(uri)
            port = urlsplit(uri).port
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError("it is no link") from error
        address = await self._address(url.host, port or (443 if url.scheme == "https" else 80))
        # The address that was looked at is the one that is asked: a name may change in between.
        target = url.copy_with(host=str(address))
        host = url.netloc.decode("ascii")
        try:
            async with (
                httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client,
                asyncio.timeout(_SECONDS),
                client.stream(
                    "GET", target, headers={"Host": host}, extensions={"sni_hostname": url.host}
                ) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise InputError(f"its server answers {answer.status_code}, not 200")
                found = bytearray()
                async for piece in answer.aiter_bytes():
                    found += piece
                    if len(found) > self._most_bytes:
                        raise InputError(f"it has more than {self._most_bytes:,} bytes")
                return bytes(found)
        except (httpx.HTTPError, TimeoutError) as error:
            raise InputError("its server does not answer") from error

    async def _address(self, host: str, port: int) -> Address:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise InputError("its host is not known") from error
        addresses = [ipaddress.ip_address(each[4][0]) for each in found]
        if not addresses or not all(map(self._may_reach, addresses)):
            raise InputError("its host is not a public one")
        return addresses[0]
