"""Downloads against a real HTTP server that breaks off in the middle."""

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dig_ray.catalog.build import build
from dig_ray.catalog.config import CatalogConfig
from dig_ray.catalog.read import read_raw
from dig_ray.catalog.readers.download import fetch, fetch_release, release_urls
from dig_ray.errors import UserError


class Site:
    """Files by path; ``cuts`` says after how many bytes each coming GET is broken off, ``slow`` seconds per 64 kB."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.slow = 0.0
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def _start(self):
                data = site.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return None
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                low = int(asked[1]) if asked and site.ranges else 0
                site.requests.append((self.command, self.headers.get("Range")))
                if low and low >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                self.send_response(206 if low else 200)
                if low:
                    self.send_header("Content-Range", f"bytes {low}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - low))
                self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
                self.end_headers()
                return data[low:]

            def do_HEAD(self):
                self._start()

            def do_GET(self):
                body = self._start()
                if body is None:
                    return
                stop = site.cuts.pop(0) if site.cuts else len(body)
                for at in range(0, min(stop, len(body)), 65536):
                    piece = body[at : min(at + 65536, stop)]
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        break
                    site.sent += len(piece)
                    time.sleep(site.slow)
                if stop < len(body):
                    self.close_connection = True
                    self.connection.close()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


CHUNK = 10 * 1024 * 1024  # what the library writes at once; a cut loses at most this much
DATA = np.random.default_rng(0).bytes(30_000_000)


def test_a_connection_cut_in_the_middle_is_resumed(site, tmp_path):
    site.files["/big.bin"] = DATA
    site.cuts = [CHUNK + 1000, CHUNK + 5]
    target = fetch(f"{site.url}/big.bin", tmp_path / "big.bin", log=lambda line: None)
    assert target.read_bytes() == DATA
    ranges = [asked for method, asked in site.requests if method == "GET"]
    assert ranges == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"]
    assert site.sent == len(DATA) + 1005  # of what had come, only the unfinished chunks came twice
    digest = hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "big.bin.sha256").read_text() == f"{digest}  big.bin\n"
    assert not list(tmp_path.glob("*.part*"))


def test_a_killed_process_is_resumed_by_the_next(site, tmp_path):
    site.files["/big.bin"] = DATA
    site.slow = 0.01
    target = tmp_path / "big.bin"
    imports = "from pathlib import Path; from dig_ray.catalog.readers.download import fetch"
    code = f"{imports}; fetch({site.url + '/big.bin'!r}, Path({str(target)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while site.sent < 1.5 * CHUNK and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    had = (tmp_path / "big.bin.part").stat().st_size
    site.slow, lines = 0.0, []
    fetch(f"{site.url}/big.bin", target, log=lines.append)
    assert target.read_bytes() == DATA
    assert had == CHUNK  # what the killed process had written is not fetched again
    assert site.requests[-1] == ("GET", f"bytes={had}-") and "resuming" in lines[0]


def test_a_part_of_another_version_is_not_continued(site, tmp_path):
    site.files["/x.bin"] = DATA
    site.cuts = [1000] + [0] * 10
    with pytest.raises(UserError, match="did not complete .*run again to resume"):
        fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None)
    site.files["/x.bin"], site.cuts = DATA[::-1], []
    fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None)
    assert (tmp_path / "x.bin").read_bytes() == DATA[::-1]


def test_a_server_without_ranges_starts_over(site, tmp_path):
    site.files["/x.bin"] = DATA
    site.ranges, site.cuts = False, [2 * CHUNK]
    assert fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None).read_bytes() == DATA


def test_a_complete_part_needs_no_transfer(site, tmp_path):
    site.files["/x.bin"] = DATA
    fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None)
    version = f'"{hashlib.md5(DATA).hexdigest()}"'
    (tmp_path / "x.bin").rename(tmp_path / "x.bin.part")
    state = {"url": f"{site.url}/x.bin", "size": len(DATA), "version": version}
    (tmp_path / "x.bin.part.json").write_text(json.dumps(state))
    site.requests.clear()
    fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None)
    assert [method for method, _ in site.requests] == ["HEAD"]


def test_the_checksum_of_the_first_download_is_kept(site, tmp_path):
    site.files["/x.bin"] = DATA
    target = fetch(f"{site.url}/x.bin", tmp_path / "x.bin", log=lambda line: None)
    site.requests.clear()
    fetch(f"{site.url}/x.bin", target)
    assert not site.requests
    target.write_bytes(DATA[:-1])
    with pytest.raises(UserError, match="x.bin.sha256 says .*delete the file"):
        fetch(f"{site.url}/x.bin", target)


def test_a_pinned_checksum_holds_from_the_first_byte(site, tmp_path):
    site.files["/x.bin"] = DATA
    with pytest.raises(UserError, match="pins 0000"):
        fetch(f"{site.url}/x.bin", tmp_path / "x.bin", "0" * 64, log=lambda line: None)
    assert not (tmp_path / "x.bin").exists() and not (tmp_path / "x.bin.part").exists()
    fetch(
        f"{site.url}/x.bin",
        tmp_path / "x.bin",
        hashlib.sha256(DATA).hexdigest().upper(),
        log=lambda line: None,
    )
    with pytest.raises(UserError, match="catalog.download.sha256 says"):
        fetch(f"{site.url}/x.bin", tmp_path / "x.bin", "0" * 64)


def test_refusals_are_one_sentence(site, tmp_path):
    with pytest.raises(UserError, match="404"):
        fetch(f"{site.url}/none.bin", tmp_path / "none.bin")
    with pytest.raises(UserError, match="did not complete"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x")


def test_release_urls():
    reviews, meta = release_urls("amazon14", "Beauty")
    assert reviews.endswith("/reviews_Beauty_5.json.gz") and meta.endswith("/meta_Beauty.json.gz")
    assert release_urls("amazon14", "Beauty", core=False)[0].endswith("/reviews_Beauty.json.gz")
    assert release_urls("amazon18", "All_Beauty")[0].endswith("/categoryFilesSmall/All_Beauty_5.json.gz")
    assert release_urls("amazon23", "All_Beauty")[1].endswith("/meta_categories/meta_All_Beauty.jsonl.gz")


def test_a_named_release_is_fetched_and_read(site, tmp_path):
    reviews = "".join(
        json.dumps(
            {"user_id": "u", "parent_asin": f"P{n}", "timestamp": 1_600_000_000_000 + n, "rating": 5.0}
        )
        + "\n"
        for n in range(4)
    )
    meta = "".join(json.dumps({"parent_asin": f"P{n}", "title": f"Item {n}"}) + "\n" for n in range(4))
    site.files["/review_categories/All_Beauty.jsonl.gz"] = gzip.compress(reviews.encode())
    site.files["/meta_categories/meta_All_Beauty.jsonl.gz"] = gzip.compress(meta.encode())
    settings = {"name": "All_Beauty", "directory": str(tmp_path), "base_url": site.url}
    config = CatalogConfig(source="amazon23", download=settings)
    dataset = build(read_raw(config, log=lambda line: None), config)
    assert dataset.items.column("title").to_pylist() == [f"Item {n}" for n in range(4)]
    wrong = CatalogConfig(source="amazon23", download={**settings, "sha256": {"other.gz": "0" * 64}})
    with pytest.raises(UserError, match="no file of this release"):
        fetch_release(wrong)


def test_a_page_in_place_of_the_file_is_not_kept(site, tmp_path):
    site.files["/reviews.json.gz"] = b"<html>We have moved"
    with pytest.raises(UserError, match="the server sent '<html>We have moved'... and no gzip file"):
        fetch(f"{site.url}/reviews.json.gz", tmp_path / "reviews.json.gz", log=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.json.gz.lock"]
    site.files["/reviews.json.gz"] = gzip.compress(b"now it is there")
    assert fetch(f"{site.url}/reviews.json.gz", tmp_path / "reviews.json.gz", log=lambda line: None).exists()


def test_a_folder_that_cannot_be_is_one_sentence_and_no_secret_is_shown(site, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be written or read .*catalog.download.directory"):
        fetch(f"{site.url}/x.gz", tmp_path / "file" / "x.gz", log=lambda line: None)
    with pytest.raises(UserError, match="did not complete") as caught:
        fetch(
            f"http://me:hunter2@127.0.0.1:{site.server.server_address[1]}/no.gz",
            tmp_path / "no.gz",
            log=lambda line: None,
        )
    assert "hunter2" not in str(caught.value)


def test_a_record_that_is_damaged_is_said(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / "x.gz.sha256").write_bytes(b"\xff\xfe damaged")
    with pytest.raises(UserError, match="x.gz.sha256 says .*; delete the file to fetch it again"):
        fetch("http://127.0.0.1:1/x.gz", tmp_path / "x.gz", log=lambda line: None)
