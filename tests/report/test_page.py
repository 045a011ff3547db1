"""The page as a whole: nothing from data becomes markup, nothing is loaded from anywhere, what is missing is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dig_ray.base import Stage
from dig_ray.errors import UserError
from dig_ray.report.gather import gather
from dig_ray.report.page import build_page
from dig_ray.report.stage import run

ELEMENTS_WITHOUT_END = {"meta", "link", "img", "input", "line", "circle", "polyline", "br", "wbr"}


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, texts of scripts, and whether elements nest properly."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "script":
            self.scripts.append("")
        if tag not in ELEMENTS_WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(inputs: dict[str, Path], **more: Any) -> str:
    return build_page(
        gather(more.pop("name", "a run"), 3, more.pop("config", {"sft": {"epochs": 4}}), inputs)
    )


@pytest.fixture(scope="module")
def page(finished: dict[str, Path]) -> str:
    return page_of(finished)


def test_titles_stay_text(page: str, world: ModuleType) -> None:
    seen = Reader(page)
    assert not seen.open
    scripts = [attrs for tag, attrs in seen.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "sid-data"}, {}]
    assert not any(key.startswith("on") for _, attrs in seen.elements for key in attrs)
    items = json.loads(seen.scripts[0])["items"]
    titles = {item[4] for item in items}
    assert {"<script>alert(1)</script>", '"><img src=x onerror=alert(3)>', "item i7"} <= titles
    assert all(len(title) <= 80 for title in titles)
    assert "alert" not in seen.scripts[1] and "{{ 7 * 7 }}" in " ".join(titles)


def test_hostile_names_users_and_configs_stay_text(world: ModuleType, tmp_path: Path) -> None:
    evil = "</pre><script>alert(9)</script>"
    data = world.dataset(30, 20)
    users = np.array([f"{evil}{i:02d}" for i in range(20)])
    data = dataclasses.replace(data, user_ids=users, split_name=evil, split_hash="")
    inputs = world.write_run(tmp_path, data, sizes=(4, 4, 4), n_bootstrap=0)
    manifest = json.loads((inputs["sft"] / "manifest.json").read_text())
    manifest["versions"][evil] = evil
    (inputs["sft"] / "manifest.json").write_text(json.dumps(manifest))
    seen = Reader(page_of(inputs, name=evil, config={evil: [evil]}))
    assert not seen.open and [tag for tag, _ in seen.elements].count("script") == 2
    assert seen.text.count("alert(9)") >= 4


def test_nothing_comes_from_elsewhere(page: str) -> None:
    seen = Reader(page)
    for tag, attrs in seen.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            if key in attrs:
                assert attrs[key].startswith(("#", "data:image/")), (tag, attrs)
    style = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert len(style) == 1 and "url(" not in style[0] and "@import" not in style[0]
    assert "prefers-color-scheme: dark" in style[0]
    policy = next(attrs["content"] for tag, attrs in seen.elements if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_headings_tables_and_pictures_can_be_read_aloud(page: str) -> None:
    seen = Reader(page)
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(
        attrs.get("scope") in {"row", "col", "rowgroup"} for tag, attrs in seen.elements if tag == "th"
    )
    tags = [tag for tag, _ in seen.elements]
    assert tags.count("caption") == tags.count("table") > 5
    for tag, attrs in seen.elements:
        if tag in {"svg", "nav"} or attrs.get("role") in {"img", "region"}:
            assert attrs.get("aria-label"), (tag, attrs)
        if tag == "img":
            assert "alt" in attrs
    ids = [attrs["id"] for _, attrs in seen.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for tag, attrs in seen.elements if tag == "a"]
    assert set(links) <= set(ids)


def test_what_was_run_is_on_the_page(page: str, finished: dict[str, Path]) -> None:
    seen = Reader(page)
    data = gather("a run", 3, {}, finished)
    assert data.dataset.split_hash in seen.text and "leave_last_out" in seen.text
    assert data.sids.fingerprint in seen.text
    for manifest in data.manifests.values():
        assert manifest["fingerprint"] in seen.text
        assert all(version in seen.text for version in manifest["versions"].values())
    assert "epochs: 4" in seen.text and "3.12 %" in seen.text
    for label in ("Policy", "Popularity", "Repeat last", "Item-KNN", "SASRec"):
        assert label in seen.text
    assert seen.text.count("User u") == 10 and "hit" in seen.text
    assert page == page_of(finished)


def test_what_is_missing_is_said(world: ModuleType, finished: dict[str, Path], tmp_path: Path) -> None:
    few = {name: finished[name] for name in ("catalog", "semantic_ids")}
    text = Reader(page_of(few)).text
    for sentence in ("no evaluation", "no baseline", "no training curves", "no recommendations"):
        assert sentence in text
    assert "radio" not in page_of(few).split("</style>")[1]
    alone = world.write_run(tmp_path, world.dataset(30, 20), (4, 4, 4), ("policy",), n_bootstrap=0)
    (alone["semantic_ids"] / "sid_quality.png").unlink()
    (alone["semantic_ids"] / "sid_quality.json").unlink()
    text = Reader(page_of(alone)).text
    assert "no baseline" in text and "no quality report" in text and "The policy reaches NDCG@10" in text


def test_damaged_inputs_are_one_sentence(finished: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="artifact of the stage catalog"):
        gather("n", 0, {}, {})
    broken = tmp_path / "sft"
    shutil.copytree(finished["sft"], broken)
    (broken / "curves.json").write_text("[{")
    with pytest.raises(UserError, match="curves.json: not readable as JSON"):
        gather("n", 0, {}, finished | {"sft": broken})


def test_the_stage_writes_the_page_and_no_secret(
    world: ModuleType, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "verysecretvalue")
    config = world.CONFIG.model_copy(update={"name": "verysecretvalue-run", "store": "/somewhere/private"})
    lines: list[str] = []
    out = tmp_path / "out"
    out.mkdir()
    stage = Stage("report", "f" * 16, 0, out, str(tmp_path / "work"), log=lines.append)
    run(config, stage, finished)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert stage.stats["bytes"] == (out / "report.html").stat().st_size
    assert "verysecretvalue" not in text and "/somewhere/private" not in text
    assert len(lines) == 1 and "report.html" in lines[0]


def test_a_catalogue_of_12k_items_stays_light(world: ModuleType, tmp_path: Path) -> None:
    titles = [
        f"{i} " + "A long product title as shops write them, with size and colour " * 2 for i in range(12_101)
    ]
    inputs = world.write_run(tmp_path, world.dataset(12_101, 50, titles), (256, 256, 256), n_bootstrap=0)
    page = page_of(inputs)
    assert len(page.encode()) < 3_000_000
    assert page.count("<details") < 10  # unfolded by the browser when asked for


LOOK = """
<script>
addEventListener("load", () => {
  const first = document.querySelector("#sid-tree details");
  first.open = true;
  setTimeout(() => {
    const search = document.getElementById("sid-search");
    search.value = "a_0 lipstick";
    search.dispatchEvent(new Event("input"));
    setTimeout(() => {
      const said = document.createElement("output");
      said.id = "looked";
      said.textContent = JSON.stringify({
        roots: document.querySelectorAll("#sid-tree > li").length,
        inside: first.querySelectorAll("li").length,
        found: document.getElementById("sid-found").textContent,
        scripts: document.scripts.length,
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        hidden: getComputedStyle(document.querySelector("main .rule-seen")).display,
      });
      document.body.append(said);
    }, 300);
  }, 100);
});
</script>
"""


@pytest.mark.slow
def test_in_a_real_browser(finished: dict[str, Path], tmp_path: Path) -> None:
    """Run our script in Chromium: the tree unfolds, the search finds, no title runs, nothing is wider than the window."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(finished))
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--virtual-time-budget=5000", "--dump-dom",
    ]  # fmt: skip
    dom = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<output id="looked">(.*?)</output>', dom)
    assert found is not None, dom[-500:]
    seen = json.loads(found.group(1))
    assert seen["roots"] == 4 and seen["inside"] >= 2 and "items found" in seen["found"]
    assert seen["scripts"] == 3 and seen["wide"] == 0 and seen["hidden"] == "none"


def test_light_to_import() -> None:
    heavy = "{'torch', 'ray', 'pandas', 'matplotlib', 'transformers', 'jinja2', 'pyarrow'}"
    code = f"import sys, dig_ray.report.page, dig_ray.report.stage; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120
    )
    assert result.stdout.strip() == "set()", result.stderr
