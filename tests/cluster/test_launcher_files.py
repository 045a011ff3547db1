"""cluster.yaml and the RayJob manifest: what Ray and KubeRay accept, and what they promise about who runs what."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dig_ray.config import load_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
OWN = "# --- on premises"


def on_aws() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def on_premises() -> dict[str, Any]:
    """The file as its comment says to change it."""
    own = TEXT[TEXT.index(OWN) :].splitlines()[1:]
    keys = yaml.safe_load("\n".join(line.removeprefix("# ") for line in own))
    rest = {k: v for k, v in on_aws().items() if k not in ("available_node_types", "head_node_type")}
    return rest | keys


def validate(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("config", [on_aws, on_premises])
def test_rays_own_schema_takes_it(config) -> None:
    prepared = validate(config())
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("config", [on_aws, on_premises])
def test_a_misspelt_key_would_be_found(config) -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_wrkers"):
        validate(config() | {"max_wrkers": 3})


def test_the_head_has_no_work_and_training_is_on_demand() -> None:
    types = on_aws()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["gpu_train"]["node_config"]
    assert types["gpu_infer"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sum(node.get("max_workers", 0) for node in types.values()) <= on_aws()["max_workers"]
    assert "--num-cpus=0" in on_premises()["head_start_ray_commands"][1]


@pytest.mark.parametrize("config", [on_aws, on_premises])
def test_nothing_is_open_and_a_token_is_asked_for(config) -> None:
    head, worker = config()["head_start_ray_commands"][1], config()["worker_start_ray_commands"][1]
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in TEXT
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert any(path.endswith("/.ray/auth_token") for path in config()["file_mounts"])


# What KubeRay 1.6 reads of a RayJob, as its reference of fields says; unknown fields it drops without a word.
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"type": "object", "required": ["containers"]}, "metadata": {"type": "object"}},
    "additionalProperties": False,
}
START = {"type": "object", "additionalProperties": {"type": "string"}, "not": {"required": ["labels"]}}
GROUP = {"labels": TEXTS, "resources": TEXTS, "rayStartParams": START, "template": POD}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                "backoffLimit": COUNT,
                "runtimeEnvYAML": {"type": "string"},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "authOptions": {
                            "type": "object",
                            "properties": {
                                "mode": {"enum": ["token", "disabled"]},
                                "secretName": {"type": "string"},
                            },
                            "additionalProperties": False,
                        },
                        "gcsFaultToleranceOptions": {"type": "object"},
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["template"],
                            "additionalProperties": False,
                            "properties": {**GROUP, "serviceType": {"type": "string"}},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "minReplicas", "maxReplicas", "template"],
                                "additionalProperties": False,
                                "properties": {
                                    **GROUP,
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "numOfHosts": COUNT,
                                    "idleTimeoutSeconds": COUNT,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "rayjob.yaml").read_text())


def test_the_rayjob_has_the_fields_of_kuberay_and_no_others() -> None:
    jsonschema.validate(rayjob(), RAYJOB)
    wrong = rayjob()
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["rayStartParams"] = {"labels": "a=b"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, RAYJOB)


def test_the_rayjob_runs_what_there_is_where_it_should() -> None:
    import shlex

    spec = rayjob()["spec"]
    words = shlex.split(spec["entrypoint"])
    assert (ROOT / words[1].removeprefix("/home/ray/dig_ray/")).is_file()
    config = load_config(words[2], words[3:], ROOT / "jobs" / "configs")
    labels = {
        tuple(group["labels"].items())
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    }
    assert tuple(config.sft.nodes.items()) in labels and tuple(config.grpo.nodes.items()) in labels
    assert config.store.startswith("s3://")  # a retry is a new cluster: what is done has to be elsewhere
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
