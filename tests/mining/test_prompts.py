"""Prompts are files with a version and a hash; evidence never becomes part of them."""

from __future__ import annotations

import pytest

from dig_ray.errors import UserError
from dig_ray.mining.prompts import FOLDER, load_prompt

NAMES = sorted(p.stem for p in FOLDER.glob("*.yaml"))


def test_all_prompts_load_and_differ() -> None:
    assert NAMES == ["caption", "clusters", "descriptors", "item_interests", "judge", "user_interests"]
    prompts = [load_prompt(name) for name in NAMES]
    assert len({p.hash for p in prompts}) == len(prompts) and all(p.version == 1 for p in prompts)


def test_evidence_is_a_message_of_its_own() -> None:
    prompt = load_prompt("descriptors")
    system, user = prompt.messages('{"title": "x"}')
    assert system == {"role": "system", "content": prompt.system} and user == {
        "role": "user",
        "content": '{"title": "x"}',
    }
    picture = prompt.messages("{}", (b"\x00", "image/png"))[1]["content"]
    assert [part["type"] for part in picture] == ["image_url", "text"]
    assert picture[0]["image_url"]["url"] == "data:image/png;base64,AA=="


def test_one_character_is_another_hash(tmp_path) -> None:
    text = (FOLDER / "judge.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("Answer 1 if", "Answer 1, if"))
    assert load_prompt(str(tmp_path / "mine.yaml")).hash != load_prompt("judge").hash


@pytest.mark.parametrize(
    "content, message",
    [
        ("name: x", "exactly the fields"),
        ("name: x\nversion: one\nkind: caption\nsystem: y", "version is 'one', not a number"),
        ("name: x\nversion: 1\nkind: poem\nsystem: y", "kind 'poem' is unknown"),
        ("name: [", "cannot be read"),
    ],
)
def test_a_bad_prompt_file_is_one_sentence(content, message, tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_prompt(str(path))


def test_an_unknown_prompt_names_the_known() -> None:
    with pytest.raises(UserError, match="choose from caption, clusters, descriptors"):
        load_prompt("captoin")
