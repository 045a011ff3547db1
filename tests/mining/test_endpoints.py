"""Endpoints that will never answer, or say what cannot be: the run ends early, in one sentence, and nothing is paid for twice."""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dig_ray.errors import UserError
from dig_ray.guards.retry_after import retry_after_seconds
from dig_ray.mining.config import MiningConfig, OpenAIConfig
from dig_ray.mining.engines.chat_client import ChatClient, SpendLimit
from dig_ray.mining.engines.completion import read_completion
from dig_ray.mining.engines.contract import Request, Result
from dig_ray.mining.engines.endings import Endings
from dig_ray.mining.engines.endpoint_failures import NoAnswer, server_words
from dig_ray.mining.spend import Purse, total_paid
from dig_ray.mining.stage import run_items

GOOD = json.dumps({"descriptors": [{"descriptor": "camping in rain", "confidence": 0.9}]})


class Asked:
    """What came of asking ``n`` rows: results by key, the sentence that ended the run, lines said."""

    def __init__(self, endpoint, n: int = 200, purse=None, secret=None, **settings) -> None:
        defaults = {
            "name": "m",
            "base_url": getattr(endpoint, "url", endpoint),
            "model": "tiny",
            "api_key_env": None,
            "max_in_flight": 4,
            "timeout": 5.0,
            "max_tries": 2,
        }
        config = OpenAIConfig.model_validate({**defaults, **settings})
        self.results: dict[str, Result] = {}
        self.lines: list[str] = []
        self.trouble: Counter[str] = Counter()
        self.said, self.spent = "", False
        client = ChatClient(
            config, 1.0, 8, secret, purse, self.lines.append, lambda word: self.trouble.update([word])
        )
        requests = (Request(f"k{i}", f"i{i}", "descriptors", "list", f'{{"title": "{i}"}}') for i in range(n))
        try:
            client.ask_all(requests, lambda r: self.results.__setitem__(r.key, r))
        except UserError as error:
            self.said = str(error)
        except SpendLimit:
            self.spent = True

    @property
    def words(self) -> set[str]:
        return {r.reason.split(":")[0] for r in self.results.values() if r.status != "ok"}


def error_body(message: str, **more) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


QUOTAS = {
    "openai": (
        429,
        error_body("You exceeded your current quota, check your plan.", code="insufficient_quota"),
        {},
    ),
    "gemini-none": (429, json.dumps([{"error": {"message": "Quota exceeded, limit: 0"}}]).encode(), {}),
    "deepseek": (402, error_body("Insufficient Balance"), {}),
    "anthropic": (429, error_body("Your credit balance is too low to access the API"), {}),
    "moonshot": (403, error_body("suspended", type="exceeded_current_quota_error"), {}),
    "in-a-200": (200, error_body("Insufficient credits", code="insufficient_credits"), {}),
    "a-day": (429, error_body("Too many requests today"), {"Retry-After": "36000"}),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_a_used_up_quota_ends_the_run_at_its_first_rows(serve, name) -> None:
    status, body, headers = QUOTAS[name]
    endpoint = serve(lambda e, n: {"status": status, "body": body, "headers": headers})
    begun = time.monotonic()
    asked = Asked(endpoint, 300, deadline=600.0)
    words = server_words(body)
    assert words and words in asked.said and "run the same command to go on" in asked.said
    assert "nothing was paid" in asked.said and not asked.results
    assert sum(endpoint.calls.values()) <= (30 if name == "a-day" else 10) and time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "message",
    [
        "You exceeded your current quota, check your plan and billing details. limit: 10. Please retry in 0.2s.",
        "Rate limit reached for tokens per minute. Limit 100000, used 99000. Please try again in 20ms.",
        "slow down",
    ],
)
def test_a_rate_limit_is_waited_for(serve, message) -> None:
    endpoint = serve(lambda e, n: {"status": 429, "body": error_body(message)} if n == 1 else GOOD)
    asked = Asked(endpoint, 12)
    assert (
        not asked.said and all(r.status == "ok" for r in asked.results.values()) and len(asked.results) == 12
    )
    assert asked.trouble["status_429"] == 12


def test_a_quota_that_runs_out_on_the_way_ends_the_run_and_keeps_what_was_answered(serve) -> None:
    left = iter(range(60))
    body = error_body("You have reached your limit", code="insufficient_quota")
    endpoint = serve(lambda e, n: GOOD if next(left, None) is not None else {"status": 429, "body": body})
    asked = Asked(endpoint, 500, price={"input": 1000.0, "output": 0.0})
    assert (
        "the latest 3 rows all ended in quota" in asked.said
        and "paid so far: $6.00 for 6,000 tokens in" in asked.said
    )
    assert len(asked.results) == 60 and all(r.status == "ok" for r in asked.results.values())


def test_a_server_that_only_says_too_many_requests_is_given_up(serve, monkeypatch) -> None:
    monkeypatch.setattr("dig_ray.mining.engines.chat_client.PATIENCE", 0.5)
    monkeypatch.setattr("dig_ray.mining.engines.chat_client.FIRST_ROW", 0.2)
    endpoint = serve(lambda e, n: {"status": 429, "body": error_body("come back later")})
    asked = Asked(endpoint, 400, deadline=600.0)
    assert "'come back later'" in asked.said and "requests_per_minute" in asked.said and not asked.results


HOPELESS = {
    "redirect": ({"status": 307, "headers": {"Location": "/v2/x?api_key=hunter2hunter2"}}, "status_307", "redirects to http"),
    "moved": ({"status": 301, "headers": {"Location": "https://u:p4ssw0rd@other.example/v1"}}, "status_301", "other.example"),
    "stream": ({"body": b'data: {"choices": []}\n\ndata: [DONE]\n\n'}, "stream", "extra_body={stream: false}"),
    "login": ({"body": b"<!doctype html><title>Sign in to Corp</title>..."}, "html", "Sign in to Corp"),
    "other-json": ({"body": b'{"object": "list", "data": []}'}, "half_body", "no chat endpoint"),
    "empty-body": ({"body": b""}, "half_body", "no chat endpoint"),
    "empty": ({"text": ""}, "empty", "has no text"),
    "think-tags": ({"text": f"<think>tents</think>{GOOD}"}, "thinking", "--reasoning-parser"),
    "think-end": ({"text": f"tents</think>{GOOD}"}, "thinking", "enable_thinking"),
    "reasoning": ({"message": {"content": None, "reasoning_content": "tents"}}, "thinking", "reasoning"),
    "refusal": ({"message": {"content": None, "refusal": "I can't help"}}, "refusal", "I can't help"),
    "filter": ({"text": "", "finish": "content_filter"}, "content_filter", "filter has withheld"),
    "azure": ({"status": 400, "body": error_body("prompt was filtered", code="content_filter")}, "content_filter", "filtered"),
    "tool": (
        {"message": {"content": None, "tool_calls": [{"function": {"name": "search"}}]}, "finish": "tool_calls"},
        "tool_call",
        "the tool 'search'",
    ),
    "cut-off": ({"text": GOOD[:9], "finish": "length"}, "cut_off", "raise sampling.max_tokens"),
    "prose": ({"text": "Sure! Here is"}, "not_json", "another model, prompt"),
    "boom": ({"status": 500, "body": b'{"detail": "CUDA out of memory"}'}, "status_500", "CUDA out of memory"),
    "gateway": ({"status": 502, "body": b"<html><title>Bad gateway</title></html>"}, "status_502", "Bad gateway"),
    "unknown-field": ({"status": 422, "body": b'{"detail": [{"loc": ["seed"]}]}'}, "status_422", "seed"),
    "cut": ({"cut": True}, "connection", "can be reached"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOPELESS)
def test_what_all_rows_meet_alike_ends_the_run_after_a_bounded_number(serve, name, monkeypatch) -> None:
    monkeypatch.setattr("dig_ray.mining.engines.chat_client.FIRST_WAIT", 0.01)
    what, word, says = HOPELESS[name]
    endpoint = serve(lambda e, n: what)
    asked = Asked(endpoint, 400)
    assert "the first 20 rows all ended in " in asked.said and word in asked.said and says in asked.said
    assert "run the same command to go on" in asked.said and len(asked.said) < 900
    assert "hunter2" not in asked.said and "p4ssw0rd" not in asked.said
    assert not asked.results and sum(endpoint.calls.values()) <= 70


def test_a_wait_that_the_server_asks_for_is_believed_once() -> None:
    watch = Endings(20, 4, patience=0.05)
    watch.throttled("a", "status_429", 0.2)
    time.sleep(0.1)
    watch.throttled("b", "status_429", 0.2)
    assert not watch.reason  # it is not over yet
    time.sleep(0.25)
    watch.throttled("b", "status_429", 0.2)
    assert watch.reason and watch.met == 2
    watch = Endings(20, 4, patience=0.05)
    watch.throttled("a", "status_429", None)
    time.sleep(0.1)
    watch.alive()
    watch.throttled("b", "status_429", None)
    assert not watch.reason


def test_nobody_listens_and_no_such_host(monkeypatch) -> None:
    monkeypatch.setattr("dig_ray.mining.engines.chat_client.FIRST_WAIT", 0.01)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    asked = Asked(f"http://127.0.0.1:{port}/v1")
    assert "Connect call failed" in asked.said or "refused" in asked.said
    asked = Asked("http://no-such-host.invalid/v1")
    assert "no-such-host.invalid" in asked.said and "check base_url" in asked.said


def test_rows_that_only_met_a_hopeless_endpoint_are_asked_again_and_others_are_kept(serve) -> None:
    """The first of two bad answers that are told apart is held as long as it may be the endpoint's fault."""
    endpoint = serve(lambda e, n: "no JSON" if int(json.loads(e)["title"]) % 7 == 3 else GOOD)
    asked = Asked(endpoint, 70)
    assert not asked.said and len(asked.results) == 70
    assert sum(r.status == "ok" for r in asked.results.values()) == 60 and asked.words == {"not_json"}


def test_a_few_bad_rows_in_a_row_never_end_a_run(serve) -> None:
    endpoint = serve(lambda e, n: "no JSON" if 50 <= int(json.loads(e)["title"]) < 85 else GOOD)
    asked = Asked(endpoint, 120)
    assert not asked.said and Counter(r.status for r in asked.results.values()) == {"ok": 85, "failed": 35}


def test_a_small_catalogue_that_fails_alike_is_not_asked_either(serve) -> None:
    endpoint = serve(lambda e, n: {"message": {"content": None, "reasoning_content": "hm"}})
    asked = Asked(endpoint, 5)
    assert "the first 5 rows all ended in thinking" in asked.said and not asked.results
    assert not Asked(endpoint, 2).said and len(Asked(endpoint, 5, hopeless_rows=0).results) == 5
    two = serve(lambda e, n: "no JSON" if '"1"' in e else {"text": ""})
    assert not Asked(two, 5).said


def test_hopeless_rows_0_never_ends_a_run(serve) -> None:
    asked = Asked(serve(lambda e, n: "no JSON"), 60, hopeless_rows=0)
    assert not asked.said and len(asked.results) == 60


@given(
    st.lists(st.sampled_from(["ok", "a", "b", "quota"]), max_size=200), st.integers(1, 5), st.integers(1, 8)
)
def test_no_result_is_lost_or_given_twice_and_an_end_needs_its_rows(words, rows, in_flight) -> None:
    watch, kept = Endings(rows, in_flight), []
    for number, word in enumerate(words):
        result = Result(str(number), "ok" if word == "ok" else "failed", "" if word == "ok" else f"{word}: x")
        kept += watch.seen(result)
    kept += watch.rest()
    keys = [r.key for r in kept]
    assert len(set(keys)) == len(keys)
    lost = {number for number in range(len(words)) if str(number) not in set(keys)}
    if not watch.reason:
        assert not lost
    else:
        word = watch.reason.split(":")[0]
        assert all(words[n] == word for n in lost) and watch.met >= min(3, rows)


# --- what a server takes ------------------------------------------------------------------------------------


def takes(*shapes: str, status: int = 500, message: str = "Invalid response_format"):
    """As llama.cpp's server: ``shapes`` are type and, after a +, its key that holds a schema."""

    def behave(evidence: str, number: int):
        told = endpoint_of[0].bodies[-1].get("response_format", {"type": "none"})
        shape = told["type"] + ("+schema" if "schema" in told else "")
        return GOOD if shape in shapes else {"status": status, "body": error_body(message)}

    endpoint_of: list = [None]
    return behave, endpoint_of


@pytest.mark.parametrize(
    "shapes, setting, status, message, says, wasted",
    [
        (("json_schema",), "auto", 500, "response_format", "", 0),
        (("json_object+schema", "none"), "auto", 500, "only json_object in response_format", "with the schema", 1),
        (("json_object", "none"), "auto", 400, "'response_format.type' json_schema unknown", "json_object from here", 2),
        (("none",), "auto", 422, "extra fields not permitted: response_format", "asking with none", 3),
        (("json_object+schema",), "json_object", 400, "x", "", 0),
        (("json_object",), "json_object", 400, "Unknown parameter: response_format.schema", "json_object from here", 1),
        (("json_object+schema",), "auto", 500, "internal error", "with the schema", 2),
    ],
)  # fmt: skip
def test_what_a_server_takes_is_learnt_at_the_first_row(
    serve, shapes, setting, status, message, says, wasted
) -> None:
    behave, box = takes(*shapes, status=status, message=message)
    box[0] = endpoint = serve(behave)
    asked = Asked(endpoint, 30, response_format=setting, max_in_flight=8)
    assert (
        not asked.said and all(r.status == "ok" for r in asked.results.values()) and len(asked.results) == 30
    )
    assert sum(endpoint.calls.values()) == 30 + wasted
    assert len(asked.lines) == bool(says) and all(says in line for line in asked.lines)


def test_a_set_shape_is_kept_and_a_refusal_of_something_else_is_said_as_it_was(serve) -> None:
    behave, box = takes("none")
    box[0] = endpoint = serve(behave)
    asked = Asked(endpoint, 100, response_format="json_schema", max_tries=1)
    assert "'Invalid response_format'" in asked.said and not asked.lines
    assert {b["response_format"]["type"] for b in endpoint.bodies} == {"json_schema"}
    endpoint = serve(lambda e, n: {"status": 400, "body": error_body("Unsupported parameter: seed")})
    asked = Asked(endpoint, 100)
    assert "Unsupported parameter: seed" in asked.said and not asked.lines
    assert endpoint.bodies[-1]["response_format"]["type"] == "json_schema" and len(endpoint.bodies) < 60


def test_learning_changes_no_answers_identity() -> None:
    config = OpenAIConfig(name="m", base_url="http://127.0.0.1:1/v1", model="m")
    assert config.response_format == "auto" and config.identity()["response_format"] == "json_schema"
    fixed = {
        shape: config.model_copy(update={"response_format": shape}).identity()
        for shape in ("json_object", "none")
    }
    assert {shape: found["response_format"] for shape, found in fixed.items()} == {
        "json_object": "json_object",
        "none": "none",
    }


def test_one_row_is_sent_before_the_flood(serve) -> None:
    endpoint = serve(lambda e, n: GOOD, latency=0.3)
    Asked(endpoint, 40, max_in_flight=16)
    gaps = [at - endpoint.times[0] for at in endpoint.times]
    assert sum(gap < 0.25 for gap in gaps) == 1 and endpoint.most_in_flight == 16


# --- what it used ---------------------------------------------------------------------------------------------

IMPOSSIBLE = ["", "null", "[]", "7", '{"prompt_tokens": -1000000, "completion_tokens": -5}']
IMPOSSIBLE += [
    f'{{"prompt_tokens": {one}, "completion_tokens": {one}}}'
    for one in ("null", "true", '"100"', "Infinity", "NaN", "1e400", "1.5", "1" + "0" * 19, "1" + "0" * 400, "0", "-1", "{}")
]  # fmt: skip


@pytest.mark.parametrize("usage", IMPOSSIBLE, ids=lambda usage: usage[:40])
def test_usage_that_is_missing_or_cannot_be_is_estimated_and_the_limit_holds(serve, usage, tmp_path) -> None:
    endpoint = serve(lambda e, n: {"text": GOOD, "usage": usage})
    price = {"input": 1000.0, "output": 1000.0}
    purse = Purse(0.5, 0.0, str(tmp_path))
    asked = Asked(endpoint, 100, purse=purse, price=price, spend_limit=0.5)
    purse.close()
    one = next(iter(asked.results.values()))
    assert asked.spent and one.estimated == 1 and one.status == "ok"
    assert (
        5 < one.tokens_in < 1000
        and 5 < one.tokens_out < 50
        and one.cost == pytest.approx((one.tokens_in + one.tokens_out) / 1000)
    )
    assert 0.5 <= total_paid(str(tmp_path)) < 0.5 + 5 * one.cost


def test_half_a_response_is_paid_for_too(serve, tmp_path) -> None:
    endpoint = serve(lambda e, n: {"body": b'{"choices": [{"message": {"content": "abcdefgh'})
    purse = Purse(0.5, 0.0, str(tmp_path))
    asked = Asked(endpoint, 40, purse=purse, price={"input": 1000.0, "output": 0.0}, spend_limit=0.5)
    purse.close()
    assert asked.spent and total_paid(str(tmp_path)) >= 0.5


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.integers(10**18, 10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "choices",
    "message",
    "content",
    "usage",
    "error",
    "finish_reason",
    "tool_calls",
    "refusal",
    "reasoning",
)


@given(
    st.dictionaries(st.sampled_from(NAMES), json_values),
    st.dictionaries(st.sampled_from(NAMES), json_values),
    json_values,
    json_values,
    st.integers(0, 2),
)
def test_any_body_is_a_bounded_completion_or_no_answer(whole, message, first, second, form) -> None:
    usage = {"prompt_tokens": first, "completion_tokens": second}
    body = [
        {"choices": [{"message": message, "finish_reason": first}], "usage": usage},
        whole,
        {**whole, "choices": [first], "usage": second},
    ][form]
    try:
        text, tokens_in, tokens_out, end = read_completion(json.dumps(body).encode(), lambda: 7)
    except NoAnswer as error:
        assert str(error) and (error.tokens is None or min(error.tokens) >= 0)
        return
    assert type(tokens_in) is int and type(tokens_out) is int and isinstance(text, str)
    assert 0 < tokens_in <= 10**7 and 0 <= tokens_out <= 10**6 and isinstance(end.why, str)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_answer_or_one(content) -> None:
    try:
        read_completion(content)
    except NoAnswer as error:
        assert str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"\xff\xfe",
        b"1" * 5000,
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    ],
    ids=["deep", "deep-object", "no-utf8", "digits", "surrogate"],
)
def test_a_body_made_to_break_a_reader_costs_its_own_row(serve, body) -> None:
    asked = Asked(serve(lambda e, n: {"body": body} if '"3"' in e else GOOD), 8, max_tries=1)
    assert len(asked.results) == 8 and sum(r.status == "ok" for r in asked.results.values()) == 7
    assert asked.results["k3"].reason and asked.results["k3"].row()


def test_payments_that_are_none_are_left_out_with_a_word(tmp_path) -> None:
    lines = [
        '{"key": "a", "dollars": 1.5}',
        '{"key": "b", "dollars": -1000.0}',
        '{"key": "c", "dollars": 1e300}',
    ]
    lines += [
        '{"key": "d", "dollars": NaN}',
        '{"key": "e", "dollars": "much"}',
        '{"key": "f"}',
        "garbage",
        '{"key": "g", "dollars": 2}',
    ]
    (tmp_path / "answers-1.jsonl").write_text("\n".join(lines) + "\n")
    notes: Counter[str] = Counter()
    assert total_paid(str(tmp_path), notes) == 3.5 and notes == {"payments_ignored": 6}


@given(
    st.text(max_size=40)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.datetimes().map(lambda t: t.strftime("%a, %d %b %Y %H:%M:%S GMT"))
)
def test_any_retry_after_is_bounded_or_none(header) -> None:
    seconds = retry_after_seconds(header)
    assert seconds is None or 0 <= seconds <= 3600


TIMES = {
    "5": 5,
    " 0.5 ": 0.5,
    "1" + "0" * 200: 3600,
    **dict.fromkeys(["-5", "nan", "inf", "1_0", "", "soon"]),
    "Fri, 31 Dec 9999 23:59:59 GMT": 3600,
    "Fri, 31 Dec 1999 23:59:59 GMT": 0,
}


@pytest.mark.parametrize("header, seconds", TIMES.items())
def test_retry_after_is_a_number_or_a_date(header, seconds) -> None:
    assert retry_after_seconds(header) == seconds


# --- secrets ----------------------------------------------------------------------------------------------------

KEY = "sk-canary/SECRETSECRETSECRET0123456789"


@pytest.mark.parametrize("before", [0, 100, 130, 150, 159, 170, 1000])
def test_a_key_across_the_cut_is_hidden(before) -> None:
    said = server_words(error_body("x" * before + " bad Authorization: " + KEY), KEY)
    assert not any(KEY[n : n + 8] in said for n in range(0, len(KEY) - 8))


@given(st.text(max_size=400), st.text(max_size=60), st.sampled_from(["json", "html", "plain", "detail"]))
def test_a_key_anywhere_in_a_body_is_hidden(before, after, form) -> None:
    text = f"{before}{KEY}{after}"
    body = {
        "json": json.dumps({"error": {"message": text}}),
        "html": f"<html><title>{before.replace('<', '')}{KEY}</title>",
        "plain": text,
        "detail": json.dumps({"detail": [{"msg": text}]}, ensure_ascii=False),
    }[form]
    said = server_words(body.encode("utf-8", "replace"), KEY)
    assert len(said) <= 160 and not any(KEY[n : n + 12] in said for n in range(0, len(KEY) - 12))


@pytest.mark.parametrize(
    "form", ["plain", "escaped", "prose", "refusal", "error", "header", "finish", "tool"]
)
def test_no_answer_that_repeats_the_key_is_kept(serve, form, monkeypatch) -> None:
    monkeypatch.setenv("MY_AUTH_KEY", KEY)
    entry = json.dumps({"descriptors": [{"descriptor": f"uses {KEY}", "confidence": 0.5}]})
    what = {
        "plain": {"text": entry},
        "escaped": {"text": entry.replace("/", "\\/")},
        "prose": {"text": f"I was given {KEY}"},
        "refusal": {"message": {"content": None, "refusal": f"no, {KEY}"}},
        "error": {"status": 500, "body": error_body(f"proxy saw {KEY}")},
        "finish": {"text": "", "finish": KEY},
        "tool": {"message": {"content": None, "tool_calls": [{"function": {"name": KEY}}]}},
        "header": {"status": 302, "headers": {"Location": f"/login?key={KEY}"}},
    }[form]
    asked = Asked(serve(lambda e, n: what if '"1"' in e else GOOD), 4, api_key_env="MY_AUTH_KEY", max_tries=1)
    assert len(asked.results) == 4 and asked.results["k1"].status == "failed"
    kept = json.dumps([r.row() for r in asked.results.values()])
    assert KEY not in kept and "SECRETSECRET" not in kept
    if form in ("plain", "escaped", "prose"):
        assert asked.results["k1"].reason.startswith("secret")


def test_a_placeholder_for_a_key_may_stand_in_an_answer(serve, monkeypatch) -> None:
    monkeypatch.setenv("MY_AUTH_KEY", "camping")
    asked = Asked(serve(lambda e, n: GOOD), 4, api_key_env="MY_AUTH_KEY")
    assert all(r.status == "ok" and r.raw == GOOD for r in asked.results.values())


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@host/v1", "https://hunter2@host/v1", "https://host/v1?api_key=hunter2"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url) -> None:
    with pytest.raises(ValueError) as caught:
        OpenAIConfig(name="m", model="m", base_url=url)
    first = caught.value.errors()[0]["msg"]  # type: ignore[attr-defined]
    assert "hunter2" not in first and "base_url" in first and "api_key_env" in first


# --- the whole stage ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_here")
def test_rows_that_fail_twice_do_not_end_a_run_that_answered_the_others(serve, world, in_store) -> None:
    def behave(evidence: str, number: int):
        poison = int(json.loads(evidence)["title"].split()[-1]) % 2
        return {"status": 400, "body": error_body("too long for me")} if poison else GOOD

    endpoint = serve(behave)
    miner = {
        "engine": "openai",
        "name": "gpt",
        "model": "m",
        "base_url": endpoint.url,
        "api_key_env": None,
        "max_in_flight": 4,
    }
    catalog = world(100)
    config = MiningConfig.model_validate({"items": [miner], "max_failed": 0.1})
    with pytest.raises(UserError, match="50 of 100 rows failed .*too long for me"):
        in_store(lambda stage: run_items(config, stage, catalog, None))
    raised = config.model_copy(update={"max_failed": 0.6})
    stage = in_store(lambda stage: run_items(raised, stage, catalog, None))
    assert stage.stats["miners"]["gpt"]["all"]["reasons"] == {"status_400": 50}


@pytest.mark.usefixtures("ray_here")
def test_a_stage_says_what_was_learnt_estimated_and_ended_and_goes_on(serve, world, in_store) -> None:
    behave, box = takes("json_object+schema")
    box[0] = endpoint = serve(behave)
    miner = {"engine": "openai", "name": "gpt", "model": "m", "base_url": endpoint.url, "api_key_env": None}
    config = MiningConfig.model_validate({"items": [miner | {"max_in_flight": 4}]})
    catalog = world(60)
    lines: list[str] = []

    def broken(evidence: str, number: int):
        found = behave(evidence, number)
        if isinstance(found, str) and random.Random(evidence).random() < 0.5 and broken_now[0]:
            return {"message": {"content": None, "reasoning_content": "hm"}, "usage": ""}
        return {"text": found, "usage": ""} if isinstance(found, str) else found

    broken_now = [False]
    endpoint.behave = lambda e, n: {"status": 429, "body": error_body("no", code="insufficient_quota")}
    with pytest.raises(UserError, match="miner gpt: the first 3 rows all ended in quota"):
        in_store(lambda stage: run_items(config, stage, catalog, None))
    endpoint.behave = broken
    stage = in_store(lambda stage: run_items(config, stage, catalog, None))
    lines = stage.stats["lines"]
    assert any("gpt: the endpoint does not take response_format json_schema" in line for line in lines)
    assert any("usage is missing or impossible in 60 of 61 calls" in line for line in lines)
    assert (
        stage.stats["miners"]["gpt"]["all"]["estimated"] == 60
        and stage.stats["miners"]["gpt"]["all"]["ok"] == 60
    )
