"""The client against a real server on loopback that misbehaves."""

from __future__ import annotations

import json
import time

import pytest

from dig_ray.errors import UserError
from dig_ray.mining.config import OpenAIConfig
from dig_ray.mining.engines.chat_client import ChatClient, SpendLimit
from dig_ray.mining.engines.contract import Request, Result

GOOD = json.dumps({"descriptors": [{"descriptor": "camping in rain", "confidence": 0.9}]})
BAD = '{"descriptors": []}'


def ask(endpoint, n: int = 20, share: float = 1.0, **settings) -> dict[str, Result]:
    defaults = {
        "name": "m",
        "base_url": endpoint.url,
        "model": "tiny",
        "api_key_env": None,
        "max_in_flight": 8,
        "timeout": 1.0,
    }
    client = ChatClient(OpenAIConfig(**{**defaults, **settings}), share)
    requests = [Request(f"k{i}", f"i{i}", "descriptors", "list", f'{{"title": "{i}"}}') for i in range(n)]
    results: dict[str, Result] = {}
    client.ask_all(requests, lambda r: results.__setitem__(r.key, r))
    return results


def test_every_row_is_asked_once_and_many_at_a_time(serve) -> None:
    endpoint = serve(latency=0.2)
    results = ask(endpoint, 80, max_in_flight=40, timeout=30)
    assert len(results) == 80 and all(r.status == "ok" and r.calls == 1 for r in results.values())
    assert set(endpoint.calls.values()) == {1} and 20 < endpoint.most_in_flight <= 40
    assert all(r.raw == GOOD and (r.tokens_in, r.tokens_out) == (100, 10) for r in results.values())


def test_instructions_and_evidence_are_two_messages_and_the_schema_is_sent(serve) -> None:
    endpoint = serve()
    ask(endpoint, 1)
    (body,) = endpoint.bodies
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == '{"title": "0"}' and body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["descriptors"]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "0.1"}},
        {"status": 429},
        {"status": 500, "body": b'{"error": {"message": "boom"}}'},
        {"status": 502, "body": b"<html>"},
        {"status": 503, "headers": {"Retry-After": "0.1"}, "body": b"{}"},
        {"status": 504},
        {"body": b'{"error": {"message": "overloaded"}}'},
        {"body": b'{"choices": [{"mess'},
        {"body": b"[]"},
        {"cut": True},
        {"sleep": 3.0, "text": GOOD},
    ],
    ids=lambda f: "-".join(map(str, f))[:40],
)
def test_a_fault_that_passes_is_tried_again(serve, fault) -> None:
    endpoint = serve(lambda evidence, number: fault if number == 1 and '"3"' in evidence else GOOD)
    results = ask(endpoint, 8)
    assert all(r.status == "ok" for r in results.values())
    assert results["k3"].calls == 2 and sum(endpoint.calls.values()) == 9


def test_a_fault_that_stays_fails_its_row_alone_and_says_why(serve) -> None:
    def behave(evidence, number):
        return {"status": 500, "body": b'{"error": 1}'} if '"2"' in evidence else GOOD

    results = ask(serve(behave), 5, max_tries=3)
    assert [r.status for _, r in sorted(results.items())] == ["ok", "ok", "failed", "ok", "ok"]
    assert (
        results["k2"].reason == "status_500: the endpoint says '1' (3 tries)"
        and results["k2"].calls == 3
        and results["k2"].raw == ""
    )


def test_an_endpoint_that_does_not_speak_tls_is_a_named_failure(serve) -> None:
    endpoint = serve()
    results = ask(endpoint, 2, base_url=endpoint.url.replace("http:", "https:"), max_tries=2)
    assert {r.status for r in results.values()} == {"failed"} and not endpoint.calls
    assert all(r.reason.startswith("connection: ClientConnectorSSLError") for r in results.values())


def test_a_bad_answer_is_asked_for_once_more_with_another_seed(serve) -> None:
    endpoint = serve(lambda evidence, number: BAD if number == 1 else GOOD)
    (result,) = ask(endpoint, 1).values()
    assert result.status == "ok" and result.calls == 2 and result.tokens_out == 20
    assert [b["seed"] for b in endpoint.bodies] == [0, 1]


@pytest.mark.parametrize(
    "answer, reason",
    [
        (BAD, "empty: there is no descriptor"),
        ("I am sorry", "not_json"),
        ({"text": GOOD[:20], "finish": "length"}, "cut_off: the answer ends at max_tokens"),
        ({"text": None}, "empty"),
    ],
)
def test_a_second_bad_answer_is_a_recorded_failure_with_its_text(serve, answer, reason) -> None:
    endpoint = serve(lambda evidence, number: answer)
    (result,) = ask(endpoint, 1).values()
    assert result.status == "failed" and result.reason.startswith(reason) and result.calls == 2
    assert result.raw == (answer if isinstance(answer, str) else answer["text"] or "")


def test_ten_megabytes_fail_one_row(serve) -> None:
    endpoint = serve(lambda e, n: {"body": b"x" * 10_000_000} if '"1"' in e else GOOD)
    results = ask(endpoint, 4, timeout=5)
    assert (
        results["k1"].reason.startswith("too_long") and sum(r.status == "ok" for r in results.values()) == 3
    )


@pytest.mark.parametrize(
    "status, says", [(401, "key is refused"), (403, "may not"), (404, "model is unknown")]
)
def test_what_every_row_would_meet_ends_the_run_in_one_sentence(serve, status, says) -> None:
    endpoint = serve(lambda e, n: {"status": status, "body": b'{"error": "no"}'})
    with pytest.raises(UserError, match=f"answers {status}, .*{says}"):
        ask(endpoint, 50, max_in_flight=4)
    assert sum(endpoint.calls.values()) <= 8


def test_the_rate_is_kept(serve) -> None:
    endpoint = serve()
    ask(endpoint, 12, requests_per_minute=600)
    gaps = [b - a for a, b in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert endpoint.times[-1] - endpoint.times[0] >= 11 * 0.1 * 0.9 and sum(g < 0.03 for g in gaps) <= 2


def test_a_429_slows_all_requests_and_none_storms(serve) -> None:
    until = [0.0]

    def behave(evidence, number):
        now = time.monotonic()
        if not until[0]:
            until[0] = now + 0.8
        return {"status": 429, "headers": {"Retry-After": "0.8"}} if now < until[0] else GOOD

    endpoint = serve(behave)
    results = ask(endpoint, 40, max_in_flight=4)
    assert all(r.status == "ok" for r in results.values())
    assert (
        sum(t < until[0] for t in endpoint.times) <= 6
    )  # those that were in flight, and what went before the second 429 came
    assert sum(endpoint.calls.values()) <= 46


def test_spending_stops_at_the_limit_and_keeps_what_was_paid(serve) -> None:
    endpoint = serve()
    price = {"input": 100.0, "output": 1000.0}  # 2 cents an answer
    results: dict[str, Result] = {}
    config = OpenAIConfig(
        name="m",
        base_url=endpoint.url,
        model="t",
        api_key_env=None,
        max_in_flight=2,
        price=price,
        spend_limit=0.2,
    )
    requests = [Request(f"k{i}", f"i{i}", "descriptors", "s", f"{i}") for i in range(100)]
    with pytest.raises(SpendLimit):
        ChatClient(config).ask_all(requests, lambda r: results.__setitem__(r.key, r))
    assert len(results) == sum(endpoint.calls.values()) and 10 <= len(results) <= 12
    assert sum(r.cost for r in results.values()) == pytest.approx(0.02 * len(results))


def test_the_key_is_read_from_the_environment_and_is_in_no_message(serve, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-canary")
    endpoint = serve()
    ask(endpoint, 1, api_key_env="MY_KEY")
    assert endpoint.keys == {"Bearer sk-canary"}
    for status in (401, 500, 400):
        endpoint.behave = lambda e, n, s=status: {"status": s, "body": b"no"}
        try:
            said = str(ask(endpoint, 1, api_key_env="MY_KEY", max_tries=1))
        except UserError as error:
            said = str(error)
        assert "canary" not in said
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="environment variable MY_KEY is not set"):
        ask(endpoint, 1, api_key_env="MY_KEY")


def test_a_key_is_not_carried_to_another_address(serve, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-canary")
    other = serve()
    endpoint = serve(lambda e, n: {"status": 307, "headers": {"Location": other.url + "/chat/completions"}})
    (result,) = ask(endpoint, 1, api_key_env="MY_KEY").values()
    assert result.status == "failed" and result.reason.startswith("status_307") and not other.keys


def test_a_row_has_a_deadline_and_the_others_do_not_wait_for_it(serve) -> None:
    endpoint = serve(lambda e, n: {"sleep": 30, "text": GOOD} if '"0"' in e else GOOD)
    began = time.monotonic()
    results = ask(endpoint, 30, max_in_flight=2, timeout=20, deadline=1.0)
    assert results["k0"].reason.startswith("deadline") and time.monotonic() - began < 5
    assert sum(r.status == "ok" for r in results.values()) == 29


def test_an_endpoint_of_five_requests_a_second_answers_all_and_sees_no_storm(serve) -> None:
    """RELIABILITY: 429s slow the client down and fail no row."""
    window: list[float] = []

    def behave(evidence: str, number: int):
        now = time.monotonic()
        window[:] = [at for at in window if now - at < 1.0]
        if len(window) >= 5:
            return {"status": 429}
        window.append(now)
        return GOOD

    server = serve(behave)
    rows = 50
    begun = time.monotonic()
    results = ask(server, rows, max_in_flight=32, max_tries=2)
    seconds = time.monotonic() - begun
    assert [r.status for r in results.values()] == ["ok"] * rows
    assert seconds < 2.5 * rows / 5
    assert sum(server.calls.values()) < 4 * rows


def test_a_slow_set_rate_is_not_a_deadline(serve) -> None:
    server = serve()
    results = ask(server, 12, requests_per_minute=240, deadline=1.0)
    assert [r.status for r in results.values()] == ["ok"] * 12 and sum(server.calls.values()) == 12


def test_the_same_refusal_for_everybody_ends_the_run_with_what_the_endpoint_says(serve, monkeypatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-canary")
    said = json.dumps({"error": {"message": "Unsupported parameter: max_tokens, key sk-canary"}}).encode()
    server = serve(lambda evidence, number: {"status": 400, "body": said})
    with pytest.raises(
        UserError, match="first 20 rows .*Unsupported parameter: max_tokens, key <redacted>.*max_tokens_field"
    ) as caught:
        ask(server, 400, api_key_env="A_KEY")
    assert "canary" not in str(caught.value) and sum(server.calls.values()) < 200
    server.behave = lambda evidence, number: GOOD
    ask(server, 1, max_tokens_field="max_completion_tokens", omit=["temperature", "seed"])
    body = server.bodies[-1]
    assert "max_completion_tokens" in body and not {"max_tokens", "temperature", "seed"} & set(body)
