"""Requests over HTTP without Ray: what is refused, and with which line."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.serve_http import (
    Health,
    Item,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
    make_app,
)


class Echo:
    """A service that answers with what it was asked."""

    max_body_bytes = 4 << 10

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        if request.k == 13:
            raise InputError("13 is no good k;\nexpected another")
        if request.k == 14:
            raise OSError("what an outsider must not see")
        item = Item(item=str(request.interactions), score=request.k)
        return RecommendAnswer(items=[item], unknown_items=[])

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        return ScoreAnswer(scores=[float(len(request.items))], unknown_items=[])

    def health(self) -> Health:
        return Health(status="ok", run="runs/a", step=7, items=3)


def ask(method: str, path: str, body: bytes = b"", *, chunk: int | None = None) -> tuple[int, Any]:
    """The status and the JSON of an answer; ``chunk`` sends so many bytes at a time, unstated."""
    size = len(body) if chunk is None else chunk
    parts = [body[k : k + size] for k in range(0, len(body), size or 1)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": k < len(parts) - 1}
        for k, part in enumerate(parts)
    ]
    headers = [(b"content-type", b"application/json")]
    if chunk is None:
        headers.append((b"content-length", str(len(body)).encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": headers, "scheme": "http", "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def run():
        with suppress(OSError):  # servers log it; the answer is sent before
            await make_app(Echo)(scope, receive, send)

    asyncio.run(run())
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(answer)


def post(path: str, body: Any, **options: Any) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask("POST", path, raw, **options)


def test_good_requests_are_answered():
    status, answer = post("/recommend", {"interactions": [["i1", 5]], "k": 2})
    assert status == 200
    assert answer == {"items": [{"item": "[['i1', 5]]", "score": 2.0}], "unknown_items": []}
    assert post("/recommend", {})[1]["items"] == [{"item": "None", "score": 10.0}]
    assert post("/score", {"items": [1, "a"]}) == (200, {"scores": [2.0], "unknown_items": []})
    health = {"status": "ok", "run": "runs/a", "step": 7, "items": 3}
    assert ask("GET", "/health") == (200, health)


@pytest.mark.parametrize(
    "path, body, status, line",
    [
        ("/recommend", b"", 422, "the body is missing; send a JSON object"),
        ("/recommend", b"{", 422, "the body is no JSON ("),
        ("/recommend", b"[" * 4000, 400, "There was an error parsing the body"),
        ("/recommend", [], 422, "the body is []: input should be"),
        ("/recommend", {"k": 0}, 422, "k is 0: input should be greater than or equal to 1"),
        ("/recommend", {"k": True}, 422, "k is True: input should be a valid integer"),
        ("/recommend", {"k": "3"}, 422, "k is '3': input should be a valid integer"),
        ("/recommend", {"kk": 3}, 422, "a request has no kk; see /docs"),
        ("/recommend", {"exclude_seen": "no"}, 422, "exclude_seen is 'no': input should be"),
        ("/recommend", {"candidates": "i1"}, 422, "candidates is 'i1': input should be a valid l"),
        ("/recommend", {"interactions": 5}, 422, "interactions is 5: input should be"),
        ("/recommend", {"user_features": [5]}, 422, "user_features is [5]: input should be"),
        ("/recommend", {"k": "x" * 1000}, 422, "k is 'xxx"),
        ("/recommend", {"k": 13}, 400, "13 is no good k; expected another"),
        ("/recommend", {"k": 14}, 500, "the service failed; its log says why"),
        ("/recommend", b'"' + b"x" * (4 << 10), 413, "the body has more than 4 KiB; send less"),
        ("/score", {}, 422, "items is missing"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_are_one_line(path, body, status, line):
    found, answer = post(path, body)
    assert found == status
    assert list(answer) == ["error"]
    assert answer["error"].startswith(line)
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 600


def test_a_large_body_that_does_not_state_its_size_is_refused_too():
    large = {"candidates": ["i1"] * 2000}
    status, answer = post("/recommend", large, chunk=1000)
    assert (status, answer["error"][:28]) == (413, "the body has more than 4 KiB")
    assert post("/recommend", {"k": 3}, chunk=2)[0] == 200
