"""The multi_interest stage: train on Ray Train, keep the best epoch, recommend, and say what each interest of a user is.

It leaves lists in the shape of every other recommender, item vectors that a quantizer can take, and users' interests in the shape of
mined ones, so that a policy can read them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from dig_ray.artifacts.artifact_tables import write_vectors
from dig_ray.base import Inputs, Stage
from dig_ray.catalog.dataset import Dataset
from dig_ray.errors import UserError
from dig_ray.evaluation.recommendations import EXCLUDES_SEEN, write_recommendations
from dig_ray.multi_interest.cluster_labels import Found, crowd_of, label_events, read_clusters
from dig_ray.multi_interest.config import MultiInterestConfig
from dig_ray.multi_interest.examples import make_examples
from dig_ray.multi_interest.users import strongest_interests, write_interests


def run(config: Any, stage: Stage, inputs: Inputs) -> None:
    """The multi_interest stage of a run: ``train_model`` on its catalogue and, where they are read, both kinds of clusters.

    Args:
        config: the config of the run; ``multi_interest`` is read.
        stage: where to write.
        inputs: directories by stage: ``catalog``; ``user_clusters`` and ``crowd_clusters`` where the model learns from them.

    Raises:
        UserError: as ``train_model``.
    """
    users, crowd = inputs.get("user_clusters"), inputs.get("crowd_clusters")
    train_model(config.multi_interest, stage, inputs["catalog"], users, crowd)


def train_model(
    config: MultiInterestConfig,
    stage: Stage,
    catalog_dir: Path,
    user_clusters_dir: Path | None = None,
    crowd_clusters_dir: Path | None = None,
) -> None:
    """Write lists of every test case, ``embeddings.parquet``, ``model.safetensors``, and of interests ``interests.parquet``,
    ``merged.parquet`` and ``retrieved.parquet``.

    Args:
        config: settings of the model and of its training.
        stage: where to write, and whose seed everything is drawn from.
        catalog_dir: the catalogue's artifact.
        user_clusters_dir: the artifact of users' items in clusters, for the alignment.
        crowd_clusters_dir: the artifact of synthesized users' items in clusters, for the contrast.

    Raises:
        UserError: the data gives nothing to learn from, or a setting does not fit it.
    """
    from safetensors.torch import save_file

    from dig_ray.multi_interest.infer import recommend
    from dig_ray.multi_interest.loop import new_model, read_state, worker
    from dig_ray.multi_interest.retrieval import need_faiss
    from dig_ray.multi_interest.retrieved import write_retrieved
    from dig_ray.on_ray.fit import fit

    if config.search == "faiss":
        need_faiss()  # before hours of training
    started = time.monotonic()
    dataset = Dataset.load(catalog_dir)
    clusters = None if user_clusters_dir is None else read_clusters(user_clusters_dir)
    crowd = None if crowd_clusters_dir is None else read_clusters(crowd_clusters_dir)
    labels = None if clusters is None else label_events(dataset, clusters)
    job = build_job(config, dataset, stage.seed, labels, crowd)
    name = f"multi-interest-{stage.fingerprint[:16]}"
    stage.log(
        f"multi_interest: {config.model_name}, {job.examples.targets:,} targets in {len(job.examples.starts):,} windows, "
        f"{len(job.valid.target):,} validation cases, {config.num_workers} worker(s)"
    )
    state = read_state(fit(worker, job, config, job.threads, stage.work, name, stage.log).checkpoint)
    model = new_model(dataset.n_items, config, stage.seed)
    model.load_state_dict(state["best"]["weights"])
    model.eval()
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        stage.out / "model.safetensors",
    )
    (stage.out / "curves.json").write_text(json.dumps(state["rows"], indent=1) + "\n", encoding="utf-8")
    write_vectors(stage.out / "embeddings.parquet", dataset.item_ids, model.items.weight.detach().numpy())
    cases = dataset.cases("test")
    for rule, exclude in EXCLUDES_SEEN.items():
        items, scores = recommend(model, dataset.events, cases, config.top_k, exclude)
        path = stage.out / f"recommendations_{config.model_name}_{rule}.parquet"
        write_recommendations(path, dataset, cases, items, scores)
    strongest, cosine = strongest_interests(model, dataset, config.hold_out)
    figures = write_interests(stage, dataset, strongest, clusters, labels)
    write_retrieved(stage.out / "retrieved.parquet", model, dataset, cases, clusters, labels)
    best = state["rows"][state["best"]["epoch"]]
    stage.stats.update(
        rows=len(cases.target),
        model=config.model_name,
        best_epoch=best["epoch"],
        epochs=len(state["rows"]),
        valid_ndcg_at_10=best["eval_ndcg@10"],
        valid_hr_at_10=best["eval_hr@10"],
        interests=figures | {"cosine": round(cosine, 4)},
        seconds=round(time.monotonic() - started, 1),
    )
    stage.log(
        f"multi_interest: best validation NDCG@10 {best['eval_ndcg@10']:.4f} at epoch {best['epoch']}; "
        f"a user's {figures['clusters']:.2f} clusters use {figures['used']:.2f} of {config.interests} interests, "
        f"whose mean cosine is {cosine:.2f}"
    )


def build_job(
    config: MultiInterestConfig,
    dataset: Dataset,
    seed: int,
    labels: np.ndarray | None = None,
    crowd: Found | None = None,
) -> Any:
    """A ``MultiInterestJob``: windows, clusters, synthesized users and validation cases.

    Args:
        config: settings of the model and of its training.
        dataset: catalogue and split, with E training events.
        seed: what weights, order, dropout and negatives are drawn from.
        labels: int32 ``(E,)`` as ``label_events`` gives them, each event's cluster or -1; None where users are not aligned.
        crowd: id of a synthesized user -> clusters; None where no crowd is contrasted.

    Raises:
        UserError: nobody has two training events, there is no validation case, or no cluster is left to learn from.
    """
    from dig_ray.multi_interest.loop import MultiInterestJob

    offsets, events = dataset.train_sequences()
    if labels is not None and not (labels >= 0).any():
        raise UserError(
            "multi_interest.alignment: no training event is in a cluster; look into the user_clusters stage, or set alignment.weight=0"
        )
    examples = make_examples(offsets, events, config.max_length, labels)
    if not len(examples.starts):
        raise UserError(
            "multi_interest: no user has two training events; lower catalog.k_core or check the split"
        )
    valid = dataset.cases("valid").spread(config.valid_users)
    if not len(valid.target):
        raise UserError(
            "multi_interest: the validation split is empty, so nothing can pick the best epoch; check catalog.split"
        )
    return MultiInterestJob(
        config=config,
        seed=seed,
        n_items=dataset.n_items,
        examples=examples,
        frequency=np.bincount(events, minlength=dataset.n_items),
        crowd=None if crowd is None else crowd_of(dataset, crowd),
        events=dataset.events,
        valid=valid,
        threads=config.threads_per_worker or max(1, (os.cpu_count() or 1) // config.num_workers),
    )
