"""One typed tree for a whole run: YAML files, dotted overrides, and errors that name the right key.

A named experiment is ``jobs/configs/NAME.yaml``; ``extends: OTHER`` lays a file over another one, and
``key.sub=value`` on the command line lies over both. The tree is checked whole before anything starts, so
that a typo costs a second and not an hour. Each room owns its part of the tree; this module only puts the
parts together and says what is wrong with an input in one sentence: file, key, value, and the nearest right
key.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from dig_ray.base import Config, InputPath, free
from dig_ray.baselines.config import BaselinesConfig
from dig_ray.catalog.config import CatalogConfig
from dig_ray.cluster import RayConfig
from dig_ray.config_values import check_numbers, check_secrets, cut, for_eyes, short
from dig_ray.embedding.config import FusionConfig, ImageEmbeddingConfig, TextEmbeddingConfig
from dig_ray.errors import UserError
from dig_ray.evaluation.config import EvaluationConfig
from dig_ray.mining.config import MiningConfig
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.recommender.config import RecommenderConfig
from dig_ray.redaction import HIDDEN, SECRET_NAME, hide, redact
from dig_ray.semantic_ids.config import SemanticIdConfig
from dig_ray.training.config import SftConfig
from dig_ray.training.grpo_config import GrpoConfig
from dig_ray.yaml_text import parse_yaml, read_text

COMMAND_LINE = "command line"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class RunConfig(Config):
    """Everything that decides a run. One field per room, plus the run's own name, seed, store and Ray.

    Attributes:
        name: the experiment's name, as it stands in reports and file names.
        seed: seeds every stage that draws random numbers.
        store: where artifacts live: a local directory or a URI such as ``s3://bucket/prefix``.
        ray: where Ray comes from.
        fusion: pictures join the text before quantization; without it nothing looks at them.
        multi_interest: a multi-interest retriever (ComiRec, LDMI) beside the policy, or before it where it hands its interests on.
        grpo: reinforcement learning after SFT; without it the SFT policy is the last one.
    """

    name: str = Field(default="run", pattern=NAME_PATTERN)
    seed: int = Field(default=0, ge=0, lt=2**32)
    store: InputPath = free("runs", min_length=1)
    ray: RayConfig = free(RayConfig())
    catalog: CatalogConfig = CatalogConfig()
    mining: MiningConfig = MiningConfig()
    embedding: TextEmbeddingConfig = TextEmbeddingConfig()
    image_embedding: ImageEmbeddingConfig = ImageEmbeddingConfig()
    fusion: FusionConfig | None = None
    multi_interest: MultiInterestConfig | None = None
    semantic_ids: SemanticIdConfig = SemanticIdConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    baselines: BaselinesConfig = BaselinesConfig()

    @field_validator("store")
    @classmethod
    def _without_password(cls, store: str) -> str:
        if "://" in store and hide(store, secrets=()) != store:
            raise ValueError(
                "an address holds no user, password or key, which every log would show; set them in the environment, as the package that "
                "opens the address reads them (AWS_ACCESS_KEY_ID ..., FSSPEC_...)"
            )
        return store

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        longest = max(self.evaluation.ks)
        if self.baselines.run and self.baselines.top_k < longest:
            raise ValueError(
                f"baselines.top_k={self.baselines.top_k} gives lists shorter than the longest cut-off of "
                f"evaluation.ks, {longest}; set baselines.top_k={longest} or more"
            )
        if self.multi_interest is not None and self.multi_interest.top_k < longest:
            raise ValueError(
                f"multi_interest.top_k={self.multi_interest.top_k} gives lists shorter than the longest cut-off of "
                f"evaluation.ks, {longest}; set multi_interest.top_k={longest} or more"
            )
        for key, wanted in (
            ("semantic_ids.vectors", self.semantic_ids.vectors),
            ("recommender.user_interests", self.recommender.user_interests),
        ):
            if wanted == "multi_interest" and self.multi_interest is None:
                raise ValueError(
                    f"{key}=multi_interest reads a model that this run does not train; set multi_interest, or leave {key} at its default"
                )
        for field, key, miners in (
            ("caption", "mining.caption", self.mining.caption),
            ("interests", "mining.items", self.mining.item_miners),
        ):
            if field in self.embedding.fields and not miners:
                raise ValueError(
                    f"embedding.fields names {field}, which nobody mines; set {key}, or leave {field} out"
                )
        if self.embedding.curated and self.mining.judge is None:
            raise ValueError(
                "embedding.interests=positive and embedding.min_quality need a judge's labels; set mining.judge"
            )
        if self.grpo is not None and self.grpo.prompts == "held_out" and not self.sft.hold_out:
            raise ValueError(
                "grpo.prompts=held_out needs events that SFT does not see; set sft.hold_out=1, or grpo.prompts to all or last"
            )
        if self.fusion is not None and self.semantic_ids.method == "file":
            raise ValueError(
                "semantic_ids.method=file reads no vectors, so fusion has no use; drop one of them"
            )
        if self.fusion is not None and self.semantic_ids.vectors != "items":
            raise ValueError(
                f"semantic_ids.vectors={self.semantic_ids.vectors} does not read what fusion makes; drop one of them"
            )
        for mined, key, miners in (
            ("item_interests", "mining.items", self.mining.item_miners),
            ("user_interests", "mining.users", self.mining.users),
        ):
            if mined == "user_interests" and self.recommender.user_interests != "mined":
                continue
            task = self.recommender.reads(mined)
            if task and not miners:
                raise ValueError(
                    f"recommender.tasks names {task}, whose interests nobody mines; set {key}, or leave the task out"
                )
        self._check_context()
        if self.grpo is not None:
            self._check_rewards(self.grpo)
        if not self.catalog.has_interactions:
            for key, asked in (
                ("semantic_ids.collaborative.weight", self.semantic_ids.collaborative.weight > 0),
                ("mining.users", bool(self.mining.users)),
            ):
                if asked:
                    raise ValueError(
                        f"{key} reads what people did, and this catalogue has no interactions; leave {key} at its default, or give "
                        "catalog.interactions.path"
                    )
        for room, workers in (
            ("sft", self.sft),
            ("grpo", self.grpo),
            ("multi_interest", self.multi_interest),
        ):
            gpus = workers.num_workers if workers is not None and workers.use_gpu else 0
            if self.ray.num_gpus is not None and self.ray.num_gpus < gpus:
                raise ValueError(
                    f"{room}.use_gpu with {room}.num_workers={gpus} would wait for ever on ray.num_gpus={self.ray.num_gpus}; "
                    f"raise ray.num_gpus or set {room}.use_gpu=false"
                )
        return self

    def _check_context(self) -> None:
        """What a policy reads of a user may not know the event that it is to predict."""
        task, need = self.recommender.reads("user_interests"), 1 + self.sft.hold_out
        if task is None:
            return
        if self.recommender.user_interests == "mined":
            key, left_out = "mining.user_hold_out", self.mining.user_hold_out
        else:
            assert self.multi_interest is not None
            key, left_out = "multi_interest.hold_out", self.multi_interest.hold_out
        if left_out < need:
            raise ValueError(
                f"recommender.tasks: {task} predicts each user's latest event that SFT sees, and {key}={left_out} lets the interests "
                f"know it; set {key}={need}"
            )

    def _check_rewards(self, grpo: GrpoConfig) -> None:
        for one in grpo.evidence:
            if lacking := one.lacking(self):
                raise ValueError(lacking)


# --- the tree of keys ------------------------------------------------------------------------------------


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes an annotation may hold: ``X``, ``X | None``, ``X | Y``, ``Annotated[X, ...]``, ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, tuple, list) or _is_pipe(annotation):
        for part in get_args(annotation):
            yield from _models(part)


def _is_pipe(annotation: Any) -> bool:
    return type(annotation).__name__ == "UnionType"


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a config class, with its annotation; inner nodes are listed too."""
    keys: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        keys[prefix + name] = info.annotation
        for inner in _models(info.annotation):
            keys.update(known_keys(inner, f"{prefix}{name}."))
    return keys


def nearest_key(key: str, keys: Sequence[str]) -> str:
    """The known key that looks most like ``key``, by whole path and by last word."""

    def likeness(known: str) -> float:
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        leaf = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        parent = difflib.SequenceMatcher(None, key.rpartition(".")[0], known.rpartition(".")[0]).ratio()
        return max(whole, 0.7 * leaf + 0.3 * parent)

    return max(sorted(keys), key=likeness)


def _is_known(key: str, keys: Mapping[str, Any]) -> bool:
    if key in keys:
        return True
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        above = ".".join(parts[:n])
        if above in keys:  # below a free-form mapping any key goes
            return "dict" in str(keys[above]).lower() or "mapping" in str(keys[above]).lower()
    return False


# --- reading -------------------------------------------------------------------------------------------


def find_config(source: str | Path, folder: Path) -> Path:
    """The file that a name or a path means: a path to a YAML file, or ``folder/NAME.yaml``.

    Raises:
        UserError: there is none; the known names are listed.
    """
    text = str(source)
    if text.endswith((".yaml", ".yml")):
        for path in (Path(text).expanduser(), folder / text):
            if os.path.exists(path):
                return path
        raise UserError(f"config file {cut(text)} does not exist; give a path that does, or a name")
    path = folder / f"{text}.yaml"
    if re.match(NAME_PATTERN, text) and path.is_file():
        return path
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    close = difflib.get_close_matches(text, names, 1)
    hint = f", did you mean {close[0]}" if close else ""
    if os.path.isfile(text):
        hint = "; a file is given by a name that ends in .yaml"
    raise UserError(
        f"there is no config {cut(hide(str(for_eyes(text))))!r} in {folder}{hint}; known are {', '.join(names) or 'none'}, "
        "or give a path to a .yaml file"
    )


def read_layers(path: Path, _above: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """A config file and what it extends, base first, as (file name, mapping).

    Raises:
        UserError: not readable, not UTF-8, empty, not a mapping, or ``extends`` goes round in a circle.
    """
    if path.resolve() in _above:
        chain = " -> ".join(p.name for p in (*_above, path.resolve()))
        raise UserError(f"{path}: extends goes round in a circle ({chain}); remove one of them")
    text = read_text(path)
    try:
        data = parse_yaml(text)
    except UserError as error:
        raise UserError(hide(f"{path}: {error}")) from None
    if data is None:
        raise UserError(
            f"{path}: holds no setting; write at least catalog: {{source: demo}}, extends: NAME of a config to change, or {{}} for the "
            "built-in demo world with all defaults"
        )
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, not a mapping of keys to values")
    odd = next((key for key in data if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f"{path}: the mapping has the key {odd!r}, which is no setting's name; remove it")
    base = data.pop("extends", None)
    below: list[tuple[str, dict[str, Any]]] = []
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: extends is {base!r}; give one config name or file")
        try:
            base_path = find_config(base, path.parent)
        except UserError as error:
            raise UserError(f"{path}: extends: {error}") from None
        below = read_layers(base_path, (*_above, path.resolve()))
    return [*below, (str(path), data)]


def parse_overrides(overrides: Sequence[str], keys: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """``["a.b=3"]`` as layers ``[("command line", {"a": {"b": 3}})]``; values are YAML.

    Raises:
        UserError: no ``=``, an unknown key, or a value that is not YAML.
    """
    layers = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key:
            shown = HIDDEN if SECRET_NAME.search(text) else repr(hide(text))
            raise UserError(f"{COMMAND_LINE}: {shown} is no setting; write key=value, such as seed=1")
        if re.search(r"\[\d*\]|\.\d+(?:\.|$)", key) and not _is_known(key, keys):
            whole = re.split(r"\[|\.\d", key)[0]
            raise UserError(
                f"{COMMAND_LINE}: {hide(key)[:200]}: an entry of a list cannot be set alone; write the whole list, {whole}=[...]"
            )
        if not _is_known(key, keys):
            near = nearest_key(key, list(keys))
            raise UserError(
                f"{COMMAND_LINE}: unknown key {hide(key)[:200]} (value {cut(hide(for_eyes(raw, key)))}); the nearest is {near}"
            )
        try:
            value = parse_yaml(raw)
        except UserError as error:
            shown = short(for_eyes(raw, key))
            raise UserError(hide(f"{COMMAND_LINE}: {key} is {shown}: {error}")) from None
        for part in reversed(key.split(".")):
            value = {part: value}
        layers.append((COMMAND_LINE, value))
    return layers


def _merge(
    into: dict[str, Any], layer: Mapping[str, Any], source: str, origin: dict[str, str], at: str
) -> None:
    for key, value in layer.items():
        path = f"{at}{key}"
        if isinstance(value, dict):
            origin.setdefault(path, source)
            if not isinstance(into.get(key), dict):
                into[key] = {}
                origin[path] = source
            _merge(into[key], value, source, origin, f"{path}.")
        else:
            into[key] = value
            origin[path] = source


def _sentence(
    error: ValidationError, data: dict[str, Any], origin: dict[str, str], keys: dict[str, Any]
) -> str:
    """The first problem as one sentence. Union tags, which pydantic puts into the location, are skipped."""
    problems = error.errors(include_url=False)
    # a misspelt key is often also a missing one; the misspelling is what helps
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    parts: list[str] = []
    node: Any = data
    for part in problem["loc"]:
        if isinstance(node, dict):
            if part in node:
                node = node[part]
            elif part != problem["loc"][-1] or _plain(".".join([*parts, str(part)])) not in keys:
                continue
            parts.append(str(part))
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            parts[-1] += f"[{part}]"
    key = ".".join(parts)
    plain = _plain(key)
    while plain and plain not in origin:
        plain = plain.rpartition(".")[0]
    source = origin.get(plain) or origin.get("", "the built-in defaults")
    shown = short(for_eyes(node, key, _plain(key) in keys))
    if problem["type"] == "extra_forbidden":
        near = nearest_key(_plain(key), list(keys))
        return f"{source}: unknown key {key} (value {shown}); the nearest is {near}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "missing":
        return f"{source}: {key} is missing; add it"
    if problem["type"] == "union_tag_not_found":
        return f"{source}: {key} is {shown} and does not say its {problem['ctx']['discriminator']}; add it"
    if problem["type"] == "value_error" and isinstance(node, dict):
        return f"{source}: {key + ': ' if key else ''}{message}"
    if key.endswith("api_key_env"):
        return f"{source}: {key}: {message}"  # whoever put a key there does not want to read it again
    return f"{source}: {key} is {shown}: {message}"


def _plain(key: str) -> str:
    """A dotted key without places in lists."""
    return re.sub(r"\[\d+\]", "", key)


def resolve(layers: Sequence[tuple[str, Mapping[str, Any]]], model: type[Config] = RunConfig) -> Any:
    """Lay the layers over each other, later ones on top, and check the whole tree.

    Args:
        layers: (where it comes from, nested mapping) pairs.
        model: the config class at the root.

    Returns:
        An instance of ``model``.

    Raises:
        UserError: one sentence on the first problem.
    """
    data: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, layer in layers:
        _merge(data, layer, source, origin, "")
        origin[""] = source  # where a mistake of the whole tree is put: the last word
    check_numbers(data, layers[-1][0])
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{layers[-1][0]}: holds a value that is no plain data: {error}") from None
    try:
        # JSON mode in strict form: no "3" for 3 and no 1 for true, yet lists become tuples
        found = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(hide(_sentence(error, json.loads(text), origin, known_keys(model)))) from None
    check_secrets(data, layers[-1][0])
    return found


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    folder: Path = Path("jobs/configs"),
    model: type[Config] = RunConfig,
) -> Any:
    """A checked config from a name or file and ``key=value`` overrides.

    The name of the file is the run's name unless the config says otherwise.

    Raises:
        UserError: as :func:`find_config`, :func:`read_layers`, :func:`parse_overrides`, :func:`resolve`.
    """
    path = find_config(source, folder)
    layers = read_layers(path)
    keys = known_keys(model)
    named: list[tuple[str, dict[str, Any]]] = []
    if "name" in keys and "name" not in layers[-1][1]:
        layers = [(where, {k: v for k, v in layer.items() if k != "name"}) for where, layer in layers]
        named = [(str(path), {"name": path.stem})]
    return resolve([*layers, *named, *parse_overrides(overrides, keys)], model)


def to_yaml(config: Config) -> str:
    """The resolved tree as YAML, every default written out, in the order of the classes; without what an address carries of secrets."""
    return yaml.safe_dump(
        redact(config.model_dump(mode="json"), secrets=()), sort_keys=False, allow_unicode=True, width=100
    )
