"""The mining stages against a real endpoint on loopback, on a real Ray: nothing lost, nothing twice, nothing invented."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.stage import run_captions, run_items, run_users

pytestmark = pytest.mark.usefixtures("ray_here")


def answer(text: str) -> str:
    return json.dumps({"descriptors": [{"descriptor": text, "confidence": 0.5}]})


def endpoint_miner(url: str, **more) -> dict:
    return {
        "engine": "openai",
        "name": "gpt",
        "model": "m",
        "base_url": url,
        "api_key_env": None,
        "max_in_flight": 16,
        **more,
    }


def config(*miners: dict, **more) -> MiningConfig:
    return MiningConfig.model_validate({"items": list(miners), **more})


def titled(evidence: str) -> str:
    return json.loads(evidence)["title"]


def descriptors(stage) -> dict[str, list[str]]:
    rows = pq.read_table(stage.out / "interests.parquet").to_pylist()
    return {row["subject_id"]: [d["text"] for d in row["descriptors"]] for row in rows}


def test_every_item_once_and_again_only_what_changed(serve, world, in_store) -> None:
    server = serve(lambda evidence, number: answer(f"use of {titled(evidence)}"))
    settings = config(endpoint_miner(server.url))
    catalog = world(40)
    first = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert descriptors(first) == {f"i{n}": [f"use of tent number {n}"] for n in range(40)}
    assert sum(server.calls.values()) == 40
    titles = [f"tent number {n}" if n not in (3, 17) else f"better tent {n}" for n in range(40)]
    changed = world(40, titles, "changed")
    second = in_store(lambda stage: run_items(settings, stage, changed, None))
    assert sum(server.calls.values()) == 42
    assert descriptors(second)["i3"] == ["use of better tent 3"]
    assert second.stats["miners"]["gpt"]["now"]["calls"] == 2
    assert any("38 were there" in line for line in second.stats["lines"])
    other_prompt = settings.model_copy(update={"item_prompt": "item_interests"})
    server.behave = lambda evidence, number: answer("of the wrong shape")
    with pytest.raises(
        UserError, match=r"the first 20 rows all ended in wrong_keys.*used so far: [\d,]+ tokens in"
    ):
        in_store(lambda stage: run_items(other_prompt, stage, catalog, None))


@pytest.mark.parametrize(
    ("rows", "timed"),
    # timed: enough rows that what the last of them wait for is little, and a machine that does nothing else
    [(300, False), pytest.param(1500, True, marks=pytest.mark.slow)],
    ids=["answers", "and-time"],
)
def test_a_hostile_endpoint_loses_and_repeats_nothing(rows, timed, serve, world, in_store) -> None:
    """5% 429, 5% 500, 2% hang, 5% bad JSON: all rows answered, and within 1.5 times the clean time."""

    def fault(evidence: str, number: int):
        draw = random.Random(f"{evidence}{number}").random()
        if draw < 0.05:
            return {"status": 429, "headers": {"Retry-After": "0.2"}, "body": b'{"error": "slow down"}'}
        if draw < 0.10:
            return {"status": 500, "body": b'{"choices": [{"message": {"content": "not an answer"}}]}'}
        if draw < 0.12:
            return {"sleep": 30}
        if draw < 0.17:
            return '{"descriptors": ['
        return answer(f"use of {titled(evidence)}")

    catalog = world(rows)
    clean = serve(lambda evidence, number: answer(f"use of {titled(evidence)}"), latency=0.1)
    bad = serve(fault, latency=0.1)
    limit = 0.5 if timed else 3.0  # a machine that is busy with other things answers late
    seconds = {}
    for name, server in (("clean", clean), ("bad", bad)):
        settings = config(endpoint_miner(server.url, name=name, model=name, timeout=limit, max_tries=8))
        stage = in_store(lambda stage, settings=settings: run_items(settings, stage, catalog, None))
        seconds[name] = server.times[-1] - server.times[0]  # without Ray's start
        found = descriptors(stage)
        assert sorted(found) == sorted(f"i{n}" for n in range(rows))
        answered = {item: texts for item, texts in found.items() if texts}
        assert all(texts == [f"use of tent number {item[1:]}"] for item, texts in answered.items())
        lost = rows - len(answered)  # bad JSON twice in a row: 0.25% of rows, and they are named
        quarantine = pq.read_table(stage.out / "quarantine.parquet").to_pylist()
        assert len(quarantine) == lost <= rows / 100 and all(
            row["reason"].startswith("not_json") for row in quarantine
        )
    assert bad.most_in_flight <= 16
    # the places alone take 1.3: a fifth more calls, and 2% that hold theirs for five
    overhead = seconds["bad"] / seconds["clean"]
    assert not timed or overhead <= 1.5, f"{overhead:.2f} times the clean time"


def test_a_picture_with_a_broken_tag_is_one_picture(serve, world, in_store, pictures_of) -> None:
    import io
    import struct
    import zlib

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    good = out.getvalue()
    body = b"eXIf" + b"II*\0"
    broken = good[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + good[33:]
    server = serve(lambda evidence, number: json.dumps({"caption": "A plain field."}))
    catalog = world(2, image_bytes=pa.array([good, broken], pa.binary()))
    settings = MiningConfig.model_validate({"caption": endpoint_miner(server.url)})
    pictures = pictures_of(catalog)
    stage = in_store(lambda stage: run_captions(settings, stage, catalog, pictures))
    assert stage.stats["captions"] + stage.stats["pictures"].get("image_unreadable", 0) == 2
    assert stage.stats["captions"] >= 1


def test_answers_that_do_not_reach_the_store_are_not_published_as_none(
    serve, world, in_store, monkeypatch
) -> None:
    """As with workers on a machine that does not see the driver's disk."""
    from dig_ray.mining import miner

    server = serve(lambda evidence, number: answer("fine"))
    elsewhere = miner._run_engine

    def run_elsewhere(job, requests):
        from dataclasses import replace

        return elsewhere(replace(job, log=job.log + "-elsewhere"), requests)

    monkeypatch.setattr(miner, "_run_engine", run_elsewhere)
    catalog = world(6)
    with pytest.raises(UserError, match="6 answers did not arrive in .*must be a place that all of them see"):
        in_store(lambda stage: run_items(config(endpoint_miner(server.url)), stage, catalog, None))


def test_two_miners_side_by_side_and_their_agreement(serve, world, in_store) -> None:
    one = serve(lambda evidence, number: answer("Camping in rain"))
    two = serve(lambda evidence, number: answer("camping  in RAIN" if number == 1 else "never"))
    settings = config(
        endpoint_miner(one.url, name="one", model="a"),
        endpoint_miner(two.url, name="two", model="b"),
        merge={"threshold": 2},
    )
    catalog = world(10)
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    merged = pq.read_table(stage.out / "merged.parquet").to_pylist()
    assert [row["subject_id"] for row in merged] == [f"i{n}" for n in range(10)]
    assert merged[0]["interests"] == [
        {"text": "Camping in rain", "confidence": 0.5, "support": 2, "miners": ["one", "two"]}
    ]
    assert stage.stats["agreement"] == {"one | two": 1.0}


def test_a_refused_key_stops_one_miner_with_one_sentence_and_the_other_goes_on(
    serve, world, in_store
) -> None:
    good = serve(lambda evidence, number: answer("fine"))
    bad = serve(lambda evidence, number: {"status": 401, "body": b'{"error": "sk-canary"}'})
    settings = config(endpoint_miner(good.url, name="good"), endpoint_miner(bad.url, name="bad", model="n"))
    catalog = world(20)
    with pytest.raises(UserError, match="miner bad: .* answers 401, the key is refused") as caught:
        in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert "canary" not in str(caught.value)
    in_store(lambda stage: run_items(config(endpoint_miner(good.url, name="good")), stage, catalog, None))
    assert sum(good.calls.values()) == 20
    assert sum(bad.calls.values()) <= 16


def test_a_spend_limit_stops_cleanly_and_goes_on_when_raised(serve, world, in_store) -> None:
    server = serve(lambda evidence, number: answer("fine"))
    price = {"input": 1000.0, "output": 0.0}  # 100 tokens: ten cents a row
    catalog = world(60)
    limited = config(endpoint_miner(server.url, price=price, spend_limit=2.0, max_in_flight=4))
    with pytest.raises(UserError, match=r"spend_limit of \$2 is reached"):
        in_store(lambda stage: run_items(limited, stage, catalog, None))
    spent = sum(server.calls.values())
    assert 20 <= spent <= 24
    with pytest.raises(UserError, match=r"spend_limit"):
        in_store(lambda stage: run_items(limited, stage, catalog, None))
    assert sum(server.calls.values()) == spent  # not one call more
    raised = config(endpoint_miner(server.url, price=price, spend_limit=20.0, max_in_flight=4))
    stage = in_store(lambda stage: run_items(raised, stage, catalog, None))
    assert sum(server.calls.values()) == 60
    assert stage.stats["miners"]["gpt"]["all"]["cost"] == pytest.approx(6.0)


def test_miners_of_one_endpoint_spend_from_one_purse_over_runs_and_prompts(serve, world, in_store) -> None:
    server = serve(lambda evidence, number: answer("fine"), latency=0.02)
    price = {"input": 1000.0, "output": 0.0}  # 100 tokens: ten cents a call
    catalog = world(60)
    shared = {"price": price, "spend_limit": 5.0, "max_in_flight": 4}
    both = config(
        endpoint_miner(server.url, name="one", model="a", **shared),
        endpoint_miner(server.url + "/", name="two", model="b", **shared),
    )
    with pytest.raises(UserError, match=r"miner one: .*\$5 is reached.*miner two: .*\$5 is reached"):
        in_store(lambda stage: run_items(both, stage, catalog, None))
    spent = sum(server.calls.values())
    assert 50 <= spent <= 58  # at most what both had in flight above the limit
    bad = serve(lambda evidence, number: "no JSON")  # two paid answers a row, none of which is good
    wasteful = config(endpoint_miner(bad.url, price=price, spend_limit=3.0, max_in_flight=2), max_failed=1.0)
    with pytest.raises(UserError, match="spend_limit"):
        in_store(lambda stage: run_items(wasteful, stage, catalog, None))
    assert 30 <= sum(bad.calls.values()) <= 33
    other = wasteful.model_copy(update={"item_prompt": "item_interests"})
    with pytest.raises(UserError, match="spend_limit"):
        in_store(lambda stage: run_items(other, stage, catalog, None))
    assert sum(bad.calls.values()) <= 33


def test_several_actors_share_rows_places_and_money(serve, world, in_store) -> None:
    server = serve(lambda evidence, number: answer("fine"), latency=0.1)
    catalog = world(90)
    settings = config(endpoint_miner(server.url, actors=3, max_in_flight=9))
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert sum(server.calls.values()) == 90 and len(descriptors(stage)) == 90
    assert 4 <= server.most_in_flight <= 9
    price = {"input": 1000.0, "output": 0.0}
    limited = config(
        endpoint_miner(server.url, model="n", actors=3, max_in_flight=9, price=price, spend_limit=4.0)
    )
    with pytest.raises(UserError, match="spend_limit"):
        in_store(lambda stage: run_items(limited, stage, catalog, None))
    assert 40 <= sum(server.calls.values()) - 90 <= 49


def test_the_way_there_is_tried_again_next_time_and_a_bad_answer_is_not(serve, world, in_store) -> None:
    def behave(evidence: str, number: int):
        if titled(evidence).endswith(" 7"):
            return {"status": 500, "body": b"{}"}
        return "no JSON at all" if titled(evidence).endswith(" 8") else answer("fine")

    server = serve(behave)
    settings = config(endpoint_miner(server.url, max_tries=2), max_failed=0.5)
    catalog = world(10)
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    failed = {r["subject_id"]: r for r in pq.read_table(stage.out / "quarantine.parquet").to_pylist()}
    assert sorted(failed) == ["i7", "i8"] and failed["i8"]["raw"] == "no JSON at all"
    assert stage.stats["miners"]["gpt"]["all"]["reasons"] == {"not_json": 1, "status_500": 1}
    server.behave = lambda evidence, number: answer("fine")
    before = sum(server.calls.values())
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert sum(server.calls.values()) == before + 1
    assert descriptors(stage)["i7"] == ["fine"] and descriptors(stage)["i8"] == []


def test_items_without_text_are_not_asked_about(serve, world, in_store) -> None:
    server = serve(lambda evidence, number: answer("fine"))
    catalog = world(5, ["tent", "", "tent", "lamp", " "])
    stage = in_store(lambda stage: run_items(config(endpoint_miner(server.url)), stage, catalog, None))
    assert sum(server.calls.values()) == 2  # one question for two equal records
    rows = {r["subject_id"]: r for r in pq.read_table(stage.out / "interests.parquet").to_pylist()}
    assert rows["i1"]["status"] == rows["i4"]["status"] == "skipped"
    assert rows["i0"]["descriptors"] == rows["i2"]["descriptors"] != []


def test_users_are_shown_their_training_items_only(serve, world, in_store) -> None:
    steps = {"surface": "tents", "usage_context": "rain", "motive": "dry"}
    reply = json.dumps({**steps, "interests": [{"interest": "dry camping", "confidence": 1}]})
    server = serve(lambda evidence, number: reply)
    catalog = world(30)
    settings = MiningConfig.model_validate({"items": [], "users": [endpoint_miner(server.url)]})
    stage = in_store(lambda stage: run_users(settings, stage, catalog, None))
    sequences = {r["user_id"]: r for r in pq.read_table(catalog / "sequences.parquet").to_pylist()}
    seen = [[e["title"] for e in json.loads(text)["history"]] for text in server.calls]
    train = [[f"tent number {i[1:]}" for i in r["item_ids"][: r["valid_from"]]] for r in sequences.values()]
    assert sorted(seen) == sorted(
        {tuple(t): t for t in train}.values()
    )  # two users of one history: one question
    row = pq.read_table(stage.out / "interests.parquet").to_pylist()[0]
    assert row["subject"] == "user" and row["reasoning"] == steps and row["prompt"] == "user_interests"


def test_two_recordings_make_an_ensemble_under_the_stores_own_locks(world, tmp_path) -> None:
    from dig_ray.artifacts.store import Store
    from dig_ray.base import Stage

    catalog = world(2)
    miners = []
    for name, text in (("one", "camping in rain"), ("two", "Camping in RAIN")):
        pq.write_table(
            pa.table({"subject_id": ["i0", "i1"], "answer": [answer(text)] * 2}), tmp_path / f"{name}.parquet"
        )
        miners.append({"engine": "replay", "name": name, "path": str(tmp_path / f"{name}.parquet")})
    store = Store(tmp_path / "store")
    (tmp_path / "out").mkdir()
    stage = Stage(
        "item_interests",
        "f" * 16,
        0,
        tmp_path / "out",
        str(tmp_path / "work"),
        {},
        print,
        store.kept,
        store.hold,
    )
    run_items(config(*miners, merge={"threshold": 2}), stage, catalog, None)
    (interest,) = pq.read_table(stage.out / "merged.parquet").to_pylist()[0]["interests"]
    assert interest["support"] == 2 and interest["miners"] == ["one", "two"]


def test_recorded_captions_are_judged_like_fresh_ones(world, in_store, tmp_path) -> None:
    recorded = pa.table({"asin": ["i0", "i1", "i2"], "says": ["A red tent.", "", "x" * 2000]})
    pq.write_table(recorded, tmp_path / "captions.parquet")
    miner = {
        "engine": "replay",
        "name": "vlm",
        "path": str(tmp_path / "captions.parquet"),
        "id_column": "asin",
        "answer_column": "says",
        "form": "text",
    }
    settings = MiningConfig.model_validate({"caption": miner, "max_failed": 1.0})
    catalog = world(4)
    stage = in_store(lambda stage: run_captions(settings, stage, catalog))
    rows = pq.read_table(stage.out / "captions.parquet").to_pylist()
    assert [r["caption"] for r in rows] == ["A red tent.", None, None, None]
    assert [r["error"].split(":")[0] for r in rows] == ["", "empty", "too_long", "not_recorded"]


def test_pictures_reach_the_endpoint_small_and_broken_ones_are_counted(
    serve, world, in_store, pictures_of
) -> None:
    import base64
    import io

    from PIL import Image

    def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
        out = io.BytesIO()
        Image.new(mode, size, 128).save(out, "PNG" if mode != "CMYK" else "JPEG")
        return out.getvalue()

    pictures = [
        png((2000, 100)),
        png((1, 1)),
        png((64, 64), "CMYK"),
        b"not a picture",
        None,
        png((9, 9))[:40],
    ]
    server = serve(lambda evidence, number: json.dumps({"caption": "A plain field."}))
    catalog = world(6, image_bytes=pa.array(pictures, pa.binary()))
    settings = MiningConfig.model_validate({"caption": endpoint_miner(server.url), "image_side": 256})
    kept = pictures_of(catalog)
    stage = in_store(lambda stage: run_captions(settings, stage, catalog, kept))
    assert stage.stats["captions"] == 2
    assert stage.stats["pictures"] == {"image_unreadable": 2, "no_image": 1, "image_too_small": 1}
    sizes = set()
    for body in server.bodies:
        url = body["messages"][-1]["content"][0]["image_url"]["url"]
        head, data = url.split(",")
        assert head == "data:image/jpeg;base64"
        sizes.add(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == {(256, 13), (64, 64)}
    asked = len(server.bodies)
    in_store(lambda stage: run_captions(settings, stage, catalog, kept))
    assert len(server.bodies) == asked  # the same pictures
    larger = settings.model_copy(update={"image_side": 300})
    in_store(lambda stage: run_captions(larger, stage, catalog, kept))
    assert len(server.bodies) == asked + 2


def test_the_key_is_in_no_file_and_no_line(serve, world, in_store, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CANARY_KEY", "sk-canary-1234")
    server = serve(lambda evidence, number: answer("fine") if number > 1 else {"status": 500, "body": b"{}"})
    catalog = world(8)
    settings = config(endpoint_miner(server.url, api_key_env="CANARY_KEY"))
    stage = in_store(lambda stage: run_items(settings, stage, catalog, None))
    assert server.keys == {"Bearer sk-canary-1234"}
    assert "canary" not in json.dumps(stage.stats)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-canary" not in path.read_bytes(), path
