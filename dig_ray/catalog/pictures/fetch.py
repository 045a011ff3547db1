"""Pictures from the web: many at once, patient, and never out of a private network.

Addresses in a catalogue are foreign text. Whatever a name resolves to is checked when the connection is made, so a name that changes
its mind between check and connection gains nothing; so is every hop of a redirect. No cookies, no proxies of the environment, and no
address in any message: it may hold a password.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from dig_ray import __version__
from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.pictures import images as reasons
from dig_ray.guards.retry_after import retry_after_seconds

TRIES = 3
FIRST_WAIT = 0.5  # seconds, doubled with every try, with full jitter
LONGEST_WAIT = 30.0  # of what a server may ask for
HOPS = 5
REDIRECTS = {301, 302, 303, 307, 308}
HEADERS = {
    "User-Agent": f"dig_ray/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # nothing to unpack, so nothing that unpacks to more than was read
}
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

T = TypeVar("T")


class _Private(Exception):
    """An address that is none of the public internet's."""


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; IPv4 inside IPv6 is looked at as what it leads to."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inside = [ip.ipv4_mapped, ip.sixtofour, ip.teredo[1] if ip.teredo else None]
        if ip in NAT64:
            inside.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in inside):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not ip.is_multicast


class _PublicOnly(ThreadedResolver):
    """Resolves names, and knows no private address but those of allowed hosts."""

    def __init__(self, allowed: frozenset[str]) -> None:
        super().__init__()
        self.allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if _bare(host) in self.allowed:
            return found
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise _Private
        return public


def fetch_all(
    addresses: Sequence[str], images: ImagesConfig, in_flight: int, use: Callable[[bytes], T]
) -> list[T | str]:
    """What ``use`` makes of each address's bytes, in their order, or the reason why there are none.

    Args:
        addresses: http or https.
        images: the settings.
        in_flight: fetched at once, and bodies in memory at once.
        use: runs in one thread of its own.
    """
    return asyncio.run(_fetch_all(addresses, images, in_flight, use))


async def _fetch_all(
    addresses: Sequence[str], images: ImagesConfig, in_flight: int, use: Callable[[bytes], T]
) -> list[T | str]:
    allowed = frozenset(_bare(host) for host in images.private_hosts)
    places = asyncio.Semaphore(in_flight)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_PublicOnly(allowed), limit=in_flight),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # a try has one over all its hops
            headers=HEADERS,
            auto_decompress=False,
            trust_env=False,
        ) as session:

            async def one(address: str) -> T | str:
                async with places:
                    got = await _patiently(session, address, images, allowed)
                    return got if isinstance(got, str) else await loop.run_in_executor(thread, use, got)

            return list(await asyncio.gather(*map(one, addresses)))


async def _patiently(
    session: aiohttp.ClientSession, address: str, images: ImagesConfig, allowed: frozenset[str]
) -> bytes | str:
    got: bytes | str = reasons.UNREACHABLE
    wait: float | None = 0.0
    for number in range(TRIES):
        if wait is None:
            break
        if number:
            await asyncio.sleep(wait + random.uniform(0, FIRST_WAIT * 2**number))
        got, wait = await _once(session, address, images, allowed)
    return got


async def _once(
    session: aiohttp.ClientSession, address: str, images: ImagesConfig, allowed: frozenset[str]
) -> tuple[bytes | str, float | None]:
    """Bytes or a reason, and the seconds to wait before another try, None where none can help."""
    try:
        async with asyncio.timeout(images.timeout):
            here = URL(address)
            for _ in range(HOPS + 1):
                _check(here, allowed)
                async with session.get(here, allow_redirects=False) as response:
                    if response.status in REDIRECTS and "Location" in response.headers:
                        here = here.join(URL(response.headers["Location"]))
                    elif response.status == 200:
                        return await _body(response, images.max_bytes), None
                    elif response.status in (404, 410):
                        return reasons.NOT_FOUND, None
                    else:
                        if response.status != 429 and response.status < 500:
                            return reasons.UNREACHABLE, None
                        asked = retry_after_seconds(response.headers.get("Retry-After"), LONGEST_WAIT)
                        return reasons.UNREACHABLE, asked or 0.0
            return reasons.UNREACHABLE, None
    except _Private:
        return reasons.PRIVATE, None
    except ValueError:  # no address at all, or a redirect to none
        return reasons.UNREACHABLE, None
    except (TimeoutError, OSError, aiohttp.ClientError):
        return reasons.UNREACHABLE, 0.0


def _check(here: URL, allowed: frozenset[str]) -> None:
    """Refuse what is no address on the web, and a private one that is written out, since no resolver sees that."""
    if here.scheme not in ("http", "https") or not here.raw_host:
        raise ValueError("no address on the web")
    host = _bare(here.raw_host)
    if host in allowed:
        return
    try:
        public = is_public(host)
    except ValueError:
        return  # a name
    if not public:
        raise _Private


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes | str:
    if (response.content_length or 0) > limit:
        return reasons.TOO_LARGE
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > limit:
            return reasons.TOO_LARGE
    return bytes(body)


def _bare(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")
