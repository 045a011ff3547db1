"""The panel set: what it asks for is exported, what is exported is shown, and the file is what the table makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dig_ray.errors import UserError
from dig_ray.on_ray.dashboard import grafana
from dig_ray.on_ray.dashboard.panels import FILE, ROWS, as_json, dashboard
from dig_ray.on_ray.dashboard.scrape import parse, table
from dig_ray.on_ray.telemetry import METRICS, exported


def asked_for() -> set[str]:
    """Every series that a panel queries."""
    expressions = [query for panels in ROWS.values() for panel in panels for query, _ in panel.queries]
    return {name for one in expressions for name in re.findall(r"\bray_[a-z0-9_]+(?=\{)", one)}


def series(name: str) -> set[str]:
    if METRICS[name].kind != "histogram":
        return {exported(name)}
    return {f"{exported(name)}_{part}" for part in ("bucket", "sum", "count")}


def test_the_file_is_what_the_table_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == as_json(), "run python -m dig_ray.on_ray.dashboard.panels"


def test_every_metric_has_a_panel_and_every_panel_a_metric() -> None:
    ours = {one for one in asked_for() if one.startswith("ray_dig_")}
    assert ours <= set().union(*map(series, METRICS))
    assert [name for name in METRICS if not series(name) & ours] == []


def test_tags_in_queries_and_legends_are_the_metrics() -> None:
    known = {"WorkerId", "SessionName", "le"}
    for panels in ROWS.values():
        for panel in panels:
            for query, legend in panel.queries:
                names = [name for name in METRICS if series(name) & set(re.findall(r"ray_dig_\w+", query))]
                tags = set().union(known, *(METRICS[name].tags for name in names))
                by = {
                    tag.strip() for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(",")
                }
                if names:
                    assert by - {""} <= tags, panel.title
                    assert set(re.findall(r"{{(\w+)}}", legend)) <= tags, panel.title


def test_what_the_panels_ask_of_ray_ray_exports() -> None:
    """Against the source of the installed Ray: its own panels and exporters name the same metrics."""
    import ray

    theirs = {one.removeprefix("ray_") for one in asked_for() if not one.startswith("ray_dig_")}
    text = "\n".join(
        path.read_text(errors="replace")
        for path in (Path(ray.__file__).parent / "dashboard" / "modules").rglob("*_panels.py")
    )
    assert theirs and all(f"ray_{one}" in text for one in theirs)


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells


def session(folder: Path) -> Path:
    """A session's folder as Ray's dashboard leaves it."""
    own = folder / "metrics" / "grafana" / "provisioning" / "dashboards"
    own.mkdir(parents=True)
    shown = folder / "shown"
    shown.mkdir()
    provider = {"name": "Ray", "type": "file", "options": {"path": str(shown)}}
    (own / "default.yml").write_text(yaml.safe_dump({"apiVersion": 1, "providers": [provider]}))
    return folder


def test_it_is_put_where_the_sessions_grafana_looks(tmp_path: Path) -> None:
    target = grafana.install(session(tmp_path))
    assert target.parent == tmp_path / "shown"
    assert json.loads(target.read_text())["uid"] == "digRayDashboard"
    assert grafana.install(tmp_path) == target and [one.name for one in target.parent.iterdir()] == [
        target.name
    ]


def test_a_session_without_a_dashboard_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Grafana configuration: .* start the run with ray.dashboard=true"):
        grafana.install(tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "ray://127.0.0.1:10001", "127.0.0.1:99999"])
def test_an_address_that_cannot_be_is_refused_at_once(address: str) -> None:
    with pytest.raises(UserError, match=f"--address {address} .*give the address"):
        grafana.check_address(address)


def test_commands_bind_to_this_machine_only(tmp_path: Path) -> None:
    text = "\n".join(grafana.commands(tmp_path))
    assert "--web.listen-address=127.0.0.1:9090" in text and "GF_SERVER_HTTP_ADDR=127.0.0.1" in text
    assert "0.0.0.0" not in text and str(tmp_path) in text


def test_figures_become_a_table_over_processes() -> None:
    text = """
# TYPE ray_dig_decode_users_total counter
ray_dig_decode_users_total{WorkerId="a",stage="recommend"} 30.0
ray_dig_decode_users_total{WorkerId="b",stage="recommend"} 12.0
ray_dig_training_loss{WorkerId="a",stage="sft"} 1.5
ray_dig_training_loss{WorkerId="b",stage="sft"} 2.5
ray_dig_decode_batch_seconds_bucket{WorkerId="a",stage="recommend",le="+Inf"} 4.0
ray_dig_decode_batch_seconds_count{WorkerId="a",stage="recommend"} 4.0
ray_dig_decode_batch_seconds_sum{WorkerId="a",stage="recommend"} 1.0
ray_node_mem_used{instance="x"} 7.0
"""
    lines = [" ".join(line.split()) for line in table(parse(text))]
    assert lines == [
        "dig_training_loss sft 1.5 to 2.5 (2 processes)",
        "dig_decode_batch_seconds recommend 0.25 on average of 4",
        "dig_decode_users recommend 42",
    ]


def test_the_readme_lists_every_metric() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(dig_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", text, re.MULTILINE)
    there = [(n, m.kind, ", ".join(m.tags) or "-", m.meaning) for n, m in METRICS.items()]
    assert listed == there
