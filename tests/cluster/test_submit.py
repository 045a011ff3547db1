"""jobs/submit.py: the same submission once, the job's exit code, and nothing secret on the dashboard."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest

from dig_ray.console.submission import pinned_requirements, plan_submission
from dig_ray.errors import UserError
from tests.cluster.conftest import ROOT
from tests.end_to_end.test_ray_job import make_config

CANARY = "sk-canary-0123456789"


def plan(*words: str, **more):
    return plan_submission(["jobs/pipeline.py", *words], ROOT, **more)


def test_the_id_follows_from_what_is_run() -> None:
    one, other = plan("demo", "store=/shared/runs"), plan("demo", "store=/shared/runs", "seed=1")
    assert one == plan("demo", "store=/shared/runs")
    assert one.stem != other.stem and one.metadata["config_hash"] != other.metadata["config_hash"]
    assert one.stem.startswith("pipeline-demo-")
    assert one.entrypoint == "python jobs/pipeline.py demo store=/shared/runs"
    assert one.metadata["code_hash"] == other.metadata["code_hash"]


@pytest.mark.parametrize(
    ("words", "more", "sentence"),
    [
        (["demo", "store=/r", "sft.epocs=3"], {}, "sft.epocs"),
        (["demo"], {}, "store=runs would be inside the job's own directory"),
        (["demo", "store=/r"], {"env": ["OPENAI_API_KEY=x"]}, "OPENAI_API_KEY looks like a secret"),
        (["demo", "store=/r"], {"env": ["3=x"]}, "--env 3 is not NAME=VALUE"),
        (
            ["demo", "store=/r"],
            {"env": ["sk-0123456789"]},
            "--env takes NAME=VALUE, and one was given that has no =",
        ),
        (
            ["demo", "store=/r"],
            {"env": ["PROXY=http://me:hunter2@proxy"]},
            "--env PROXY holds an address with a secret",
        ),
        (["demo", "store=s3://me:hunter2@bucket/r"], {}, "s3://<redacted>@bucket/r"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(words, more, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(*words, **more)


def test_a_script_from_elsewhere_is_refused(tmp_path) -> None:
    (tmp_path / "x.py").write_text("")
    for script in ("jobs/nothing.py", str(tmp_path / "x.py"), "../x.py"):
        with pytest.raises(UserError, match="is no script below"):
            plan_submission([script], ROOT)


def test_versions_are_pinned_and_ray_is_the_clusters() -> None:
    pinned = pinned_requirements()
    assert all("==" in one and "+" not in one for one in pinned)
    names = {one.partition("==")[0] for one in pinned}
    assert {"torch", "transformers", "trl", "pyarrow"} <= names and "ray" not in names
    assert plan("demo", "store=/r", install=True).runtime_env["pip"]["packages"] == pinned


def test_nobody_there_is_one_sentence(running_cluster) -> None:
    done = running_cluster.run(
        "jobs/submit.py", "--address", "http://127.0.0.1:1", "jobs/catalog.py", "demo", "store=/shared/runs"
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no cluster answers at http://127.0.0.1:1" in done.stderr


def test_a_wrong_token_is_one_sentence(running_cluster) -> None:
    command = (
        "jobs/submit.py",
        "--address",
        running_cluster.url,
        "jobs/catalog.py",
        "demo",
        "store=/shared/runs",
    )
    done = running_cluster.run(*command, RAY_AUTH_TOKEN="another")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "asks for its token" in done.stderr and "a-token-for-tests-only" not in done.stdout + done.stderr


def jobs_of(cluster) -> list[dict]:
    request = urllib.request.Request(
        f"{cluster.url}/api/jobs/", headers={"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_submitted_followed_found_and_tried_again(running_cluster, tmp_path: Path) -> None:
    """One story, since every job takes ten seconds: a failure, the same command again, and once more."""
    config, items = make_config(tmp_path), tmp_path / "items.csv"
    command = (
        "jobs/submit.py",
        "--address",
        running_cluster.url,
        "--python",
        os.sys.executable,
        "--env",
        "SOME=thing",
    )
    job = ("jobs/catalog.py", str(config), f"store={tmp_path}/runs")
    kept = items.read_text()
    items.unlink()
    secret = {"OPENAI_API_KEY": CANARY, "MY_TOKEN": CANARY}
    failed = running_cluster.run(*command, *job, **secret)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "error:" in failed.stdout and str(items) in failed.stdout and "Traceback" not in failed.stderr
    items.write_text(kept)
    mended = running_cluster.run(*command, *job, **secret)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "-1 failed; submitting it again" in mended.stdout and "catalog" in mended.stdout
    assert len(list((tmp_path / "runs" / "catalog").glob("*/manifest.json"))) == 1
    found = running_cluster.run(*command, *job, **secret)
    assert found.returncode == 0 and "has succeeded already" in found.stdout
    known = jobs_of(running_cluster)
    ours = sorted(one["submission_id"] for one in known if one["submission_id"])
    assert [one.rpartition("-")[2] for one in ours] == ["1", "2"]
    shown = json.dumps(known)
    assert CANARY not in shown and "a-token-for-tests-only" not in shown
    assert all(one["metadata"]["job"] == "catalog" for one in known if one["submission_id"])
    assert all(one["runtime_env"]["env_vars"] == {"SOME": "thing"} for one in known if one["submission_id"])


@pytest.mark.slow
def test_left_running_and_followed_by_the_same_command(running_cluster, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    command = ("jobs/submit.py", "--address", running_cluster.url, "--python", os.sys.executable)
    job = ("jobs/baselines.py", str(config), f"store={tmp_path}/runs")
    left = running_cluster.run(*command, "--no-wait", *job)
    assert left.returncode == 0, left.stderr
    followed = running_cluster.run(*command, *job)
    assert followed.returncode == 0, followed.stderr
    name = left.stdout.split()[1]
    assert f"{name} is " in followed.stdout and "baselines" in followed.stdout
    lines = [line for line in followed.stdout.splitlines() if line.startswith("[1/")]
    assert len(lines) == len(set(lines))  # nothing is shown twice
