"""Pictures from the web: a server on loopback that misbehaves, and the addresses that must never be asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dig_ray.catalog.config import ImagesConfig
from dig_ray.catalog.pictures.fetch import fetch_all, is_public


def fetch(*addresses: str, **settings: Any) -> list[bytes | str]:
    images = ImagesConfig(fetch=True, **{"private_hosts": ("127.0.0.1",), **settings})
    return fetch_all(addresses, images, images.in_flight, lambda raw: raw)


def test_each_address_ends_in_bytes_or_a_reason(pages: Any) -> None:
    url = pages.url
    cases: dict[str, bytes | str] = {
        f"{url}/good": pages.good,
        f"{url}/html": b"<html>our shop</html>",  # no picture, which is for the opening to find
        f"{url}/missing": "image_not_found",
        f"{url}/forbidden": "image_unreachable",
        f"{url}/busy": pages.good,
        f"{url}/cut": pages.good,
        f"{url}/limited": pages.good,
        f"{url}/hop/4": pages.good,
        f"{url}/hop/5": "image_unreachable",
        f"{url}/to/?ftp://127.0.0.1/a.png": "image_unreachable",
        f"{url}/to/?http://169.254.169.254/latest/meta-data": "image_private_address",
        f"{url}/to/?http://[::1]:{pages.port}/good": "image_private_address",
        "http://": "image_unreachable",
        "http://[bad": "image_unreachable",
        "http://127.0.0.1:1/closed": "image_unreachable",
    }
    assert dict(zip(cases, fetch(*cases), strict=True)) == cases
    assert pages.asked["busy"] == 3 and pages.asked["cut"] == 2
    assert pages.waited >= 2  # as its Retry-After asks
    assert pages.asked["missing"] == pages.asked["forbidden"] == 1


def test_nothing_private_is_asked(pages: Any) -> None:
    before = pages.asked.total()
    port = pages.port
    hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "10.0.0.1"]
    hosts += ["169.254.169.254", "user:word@127.0.0.1"]
    odd = ["127.1", "2130706433", "0x7f000001", "LOCALHOST."]  # no client or resolver takes all of them
    found = fetch(*[f"http://{host}:{port}/good" for host in hosts], private_hosts=())
    assert found == ["image_private_address"] * len(hosts)
    found = fetch(*[f"http://{host}:{port}/good" for host in odd], private_hosts=())
    assert set(found) <= {"image_private_address", "image_unreachable"}
    assert pages.asked.total() == before
    assert fetch(f"http://localhost:{port}/good", private_hosts=("localhost",)) == [pages.good]
    assert fetch(
        f"http://localhost:{port}/to/?http://127.0.0.1:{port}/good", private_hosts=("localhost",)
    ) == ["image_private_address"]


def test_a_name_that_changes_its_mind_gains_nothing(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is connected to: a resolver that says public first and private then is asked once."""
    from aiohttp.resolver import ThreadedResolver

    answers = ["127.0.0.1", "8.8.8.8"]

    async def resolve(self, host, port=0, family=0):
        entry = {"hostname": host, "port": port, "family": 2, "proto": 0, "flags": 0}
        return [entry | {"host": answer} for answer in answers[:1]]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    before = pages.asked.total()
    assert fetch(f"http://shop.example:{pages.port}/good") == ["image_private_address"]
    assert pages.asked.total() == before


def test_public_addresses_are_told_from_others() -> None:
    public = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    private = [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    ]
    private += ["224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"]
    private += ["::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"]
    assert [is_public(one) for one in public] == [True] * len(public)
    assert [one for one in private if is_public(one)] == []


def test_a_body_without_end_is_not_read_to_its_end(pages: Any) -> None:
    assert fetch(f"{pages.url}/huge", f"{pages.url}/endless", max_bytes=2 << 20) == ["image_too_large"] * 2
    assert pages.sent < 60 << 20


def test_a_slow_server_costs_its_timeout(pages: Any) -> None:
    started = time.monotonic()
    assert fetch(f"{pages.url}/drip", timeout=0.2) == ["image_unreachable"]
    assert time.monotonic() - started < 8


def test_many_at_once_and_no_more(pages: Any) -> None:
    pages.most_in_flight = 0
    found = fetch(*[f"{pages.url}/good/{number}" for number in range(40)], in_flight=8)
    assert found == [pages.good] * 40 and 4 <= pages.most_in_flight <= 8


def test_nothing_is_unpacked_and_no_cookie_comes_back(pages: Any) -> None:
    assert fetch(f"{pages.url}/gzip") == [pages.good]  # as it came over the wire
    pages.headers.clear()
    fetch(f"{pages.url}/good", f"{pages.url}/good", in_flight=1)
    assert all("Cookie" not in one and one["Accept-Encoding"] == "identity" for one in pages.headers)
