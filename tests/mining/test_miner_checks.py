"""What cannot work is known before Ray starts, all of it at once."""

from __future__ import annotations

import pytest

from dig_ray.errors import UserError
from dig_ray.mining.config import MiningConfig
from dig_ray.mining.keys import read_key
from dig_ray.mining.miner_checks import problems


def endpoint(**more) -> dict:
    return {"engine": "openai", "name": "gpt", "model": "m", "base_url": "http://127.0.0.1:1/v1", **more}


def test_everything_that_would_stop_a_miner_comes_together(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for engine in ("keyphrase", "vllm"):
        monkeypatch.setattr(f"dig_ray.mining.engines.{engine}.find_spec", lambda name: None)
    (tmp_path / "prompt.yaml").write_text("name: x")
    config = MiningConfig.model_validate(
        {
            "items": [
                endpoint(api_key_env="NO_SUCH_KEY"),
                {"engine": "vllm", "name": "v", "model": "org/model"},
                {"engine": "replay", "name": "r", "path": str(tmp_path / "gone.parquet")},
                {"engine": "keyphrase"},
            ],
            "judge": endpoint(name="judge", model="n", api_key_env=None),
            "judge_prompt": str(tmp_path / "prompt.yaml"),
            "item_prompt": "judge",
        }
    )
    found = problems(config)
    for said in (
        "NO_SUCH_KEY is not set",
        "vLLM is not installed",
        "gone.parquet does not exist",
        "keybert is not installed",
        "mining.item_prompt='judge' asks for judgement",
        "exactly the fields",
    ):
        assert sum(said in one for one in found) == 1, said
    assert len(found) == 6
    elsewhere = problems(config, local=False)  # the workers' environment and packages are not this machine's
    assert len(elsewhere) == 3 and not any("NO_SUCH_KEY" in one or "vLLM" in one for one in elsewhere)
    assert problems(config, fields=("judge",)) == [found[-1]]
    assert problems(MiningConfig(), fields=("users", "caption")) == []


@pytest.mark.parametrize("around", ["{}\n", " {} ", "{}\r\n", "\t{}"])
def test_white_space_around_a_key_is_no_part_of_it(around, monkeypatch) -> None:
    monkeypatch.setenv("A_KEY", around.format("sk-canary"))
    assert read_key("m", "A_KEY") == "sk-canary"


@pytest.mark.parametrize(
    "key, says",
    [
        ("sk-canary\nsk-second", "white space or a line end"),
        ("sk-ca nary", "white space"),
        ("“sk-canary”", "quotation mark"),
        ("'sk-canary'", "quotation mark"),
        ("Bearer sk-canary", "begins with 'Bearer'"),
        ("sk-cänary", "no ASCII"),
        ("sk-\x07canary", "no ASCII"),
        ("  \n", "is empty"),
    ],
)
def test_a_key_that_no_header_carries_is_refused_and_not_repeated(key, says, monkeypatch) -> None:
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(UserError, match=says) as caught:
        read_key("m", "A_KEY")
    assert (
        "canary" not in str(caught.value) and "nary" not in str(caught.value) and "A_KEY" in str(caught.value)
    )
