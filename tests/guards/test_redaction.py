"""Secrets are taken out of what is shown, and of nothing that is hashed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.artifacts.manifest import Recipe, make_manifest
from dig_ray.guards.redaction import HIDDEN, hide, redact

KEY = "sk-canary-0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{KEY}@host/v1",
        f"https://host/v1?api_key={KEY}&n=2",
        f"https://host/v1?n=2&X-Amz-Signature={KEY}",
        f"Authorization: Bearer {KEY}",
        f"{{'Authorization': 'bearer {KEY}'}}",
        f"s3://name:{KEY}@bucket/prefix",
    ],
)
def test_a_secret_is_known_by_where_it_stands(text: str) -> None:
    assert KEY not in hide(text)
    assert HIDDEN in hide(text)


def test_addresses_without_secrets_stay_as_they_are() -> None:
    for text in ("http://127.0.0.1:8000/v1", "mail me@home?", "s3://bucket/a?region=eu", "https://h/a@b/c"):
        assert hide(text) == text


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_known_key_never_stays(before: str, after: str) -> None:
    assert KEY not in hide(before + KEY + after, KEY)


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", KEY + "\n")  # with the line end that a file of secrets leaves
    monkeypatch.setenv("OTHER_KEY", "/etc/keys/it")
    assert redact({"a": [f"x {KEY} y", 3], KEY: None}) == {"a": [f"x {HIDDEN} y", 3], HIDDEN: None}
    assert hide("reads /etc/keys/it") == "reads /etc/keys/it"


def test_two_settings_never_share_a_name_because_a_variable_held_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def recipe(prompt: str) -> Recipe:
        return Recipe("embedding", {"embedding": {"prompt": prompt}})

    plain = recipe("query: item").fingerprint
    names = []
    for prompt in ("query: item", "passage: it"):
        monkeypatch.setenv("RUN_KEY", prompt)
        names.append(recipe(prompt).fingerprint)
        shown = make_manifest(recipe(prompt), {}, {}, 0.0)
        assert (
            shown["recipe"]["config"]["embedding"]["prompt"] == HIDDEN
        )  # it may be a secret, so it is not shown
    assert names[0] == plain
    assert names[0] != names[1]
