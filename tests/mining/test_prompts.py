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
        ("", "this file has none"),
        ("- a\n- b", "this file has none"),
        ("name: x\nversion: 1\nkind: caption\nsystem: y\nmodel: z\n3: 4", "has model, 3 too many"),
        ("name: x\nversion: 1\nkind: caption\nsystem: '  '", "system is '  ', not text"),
        ("name: x\nversion: true\nkind: caption\nsystem: y", "version is True, not a number"),
        ("name: x\nversion: 99999999999\nkind: caption\nsystem: y", "version 99999999999 is not from 0"),
        ("name: x\nversion: 2024-13-45\nkind: caption\nsystem: y", "cannot be read"),
        ("name: !!python/object/apply:os.system ['true']", "cannot be read .*tag"),
        ("[" * 5000, "cannot be read"),
        (b"name: \xff\xfe", "not UTF-8 text at byte 6"),
        (b"name: x\x00", "cannot be read"),
        ('name: "\\ud800"\nversion: 1\nkind: caption\nsystem: y', "half a character"),
        ("x" * 300_000, "more than 262,144 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_prompt_file_is_one_sentence(content, message, tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_prompt(str(path))


def test_an_unknown_prompt_names_the_known() -> None:
    with pytest.raises(UserError, match="choose from caption, clusters, descriptors"):
        load_prompt("captoin")


def test_a_directory_is_no_prompt(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read .*directory"):
        load_prompt(f"{tmp_path}/")
