"""What no module may do: run text as code, unpickle, or trust what came with a model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("dig_ray", "jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
LOADERS = {"SentenceTransformer", "CrossEncoder", "SparseEncoder", "pipeline"}
WEIGHTS = ("AutoModel", "transformers.AutoModel")
"""Beginnings of the classes that read weights."""
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a call; "" where it is called on something else."""
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield name
        if name.partition(".")[0] in PICKLERS and name.rpartition(".")[2] in ("load", "loads", "Unpickler"):
            yield name
        if name == "torch.load" and options.get("weights_only") is not True:
            yield "torch.load without weights_only=True"
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and "Loader" not in options:
            yield name
        if options.get("allow_pickle") or options.get("trust_remote_code") is True or options.get("shell"):
            yield f"{name} with allow_pickle, trust_remote_code or shell"
        if options.get("verify") is False:
            yield f"{name} with verify=False"
        last = name.rpartition(".")[2]
        loads = last == "from_pretrained" and not name.startswith("peft.") or last in LOADERS
        if loads and "trust_remote_code" not in options:  # else transformers asks on standard input
            yield f"{name} without trust_remote_code"
        if (
            name.startswith(WEIGHTS)
            and last == "from_pretrained"
            and options.get("use_safetensors") is not True
        ):
            yield f"{name} without use_safetensors=True"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_runs_and_unpickles_nothing(path: Path) -> None:
    assert not list(forbidden(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "import pickle\npickle.load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "yaml.load(f)",
        "np.load(f, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True, use_safetensors=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "AutoModelForCausalLM.from_pretrained(x, use_safetensors=True)",
        "AutoTokenizer.from_pretrained(x)",
        "transformers.AutoConfig.from_pretrained(x, revision=r)",
        "SentenceTransformer(x)",
        "subprocess.run(x, shell=True)",
        "requests.get(x, verify=False)",
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


def test_the_yaml_loader_makes_plain_data_only() -> None:
    import yaml

    from dig_ray.config.yaml_text import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=_Loader)  # noqa: S506
