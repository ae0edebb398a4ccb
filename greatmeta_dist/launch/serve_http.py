"""HTTP of the service: what a request may hold, and errors in one line.

Imported only where the extra ``serve`` is installed.
"""

from collections.abc import Callable
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from greatmeta_dist.errors import InputError

MAX_LINE = 500
"""Characters of an error's line; a request may hold long values."""


class UserQuestion(BaseModel):
    """What every request says of a user."""

    model_config = ConfigDict(extra="forbid")

    interactions: dict[str, Any] | list[Any] | None = Field(
        None,
        description="What is known of the user: {item: rating}, pairs [item, rating], or items "
        "alone where the model predicts clicks. Nothing at all is a user of whom nothing is known.",
        examples=[{"50": 5, "181": 4.5}, [[50, 5], [181, 4.5]]],
    )
    user_features: dict[str, Any] | None = Field(
        None, description="The user's features, {feature: value}.", examples=[{"age": 31}]
    )


class RecommendRequest(UserQuestion):
    """Which items are best for this user?"""

    k: StrictInt = Field(10, ge=1, description="How many items.")
    exclude_seen: StrictBool = Field(True, description="Whether known items are left out.")
    candidates: list[Any] | None = Field(
        None, description="The only items that may be recommended; all where it is left out."
    )


class ScoreRequest(UserQuestion):
    """What will this user give these items?"""

    items: list[Any] = Field(description="The items to score.")


class Item(BaseModel):
    """An item that is recommended."""

    item: int | str
    score: float
    """The predicted rating, or the chance of a click."""


class RecommendAnswer(BaseModel):
    """The best items, the best first."""

    items: list[Item]
    unknown_items: list[str]
    """Items of the request that the model does not know."""


class ScoreAnswer(BaseModel):
    """Scores in the order of the items that were asked about."""

    scores: list[float]
    unknown_items: list[str]


class Health(BaseModel):
    """What this service serves."""

    status: str
    run: str
    step: int
    """The training's step whose parameters are served."""
    items: int
    """How many the catalogue has."""


class Service(Protocol):
    """What answers requests."""

    max_body_bytes: int

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """Raises ``InputError``."""

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Raises ``InputError``."""

    def health(self) -> Health: ...


class LimitedBody:
    """Refuses requests whose body is larger than a limit, before it is parsed."""

    def __init__(self, app: ASGIApp, *, service: Callable[[], Service]):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        max_bytes, num_received = self.service().max_body_bytes, 0
        refusal = f"the body has more than {max_bytes >> 10} KiB; send less at once"

        async def counted() -> Message:
            nonlocal num_received
            message = await receive()
            num_received += len(message.get("body", b""))
            if num_received > max_bytes:
                raise HTTPException(413, refusal)
            return message

        if stated.isdigit() and int(stated) > max_bytes:
            await error_response(413, refusal)(scope, receive, send)
        else:
            await self.app(scope, counted, send)


def error_response(status: int, message: str) -> JSONResponse:
    """``{"error": one line}``."""
    line = " ".join(message.split())
    return JSONResponse({"error": line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"}, status)


def make_app(service: Callable[[], Service]) -> FastAPI:
    """The web application of a service, which is asked for at each request.

    Its errors are all ``{"error": one line}``.
    """
    app = FastAPI(title="greatmeta", description="Recommendations of a trained run.")
    app.add_middleware(LimitedBody, service=service)

    @app.post("/recommend")
    async def recommend(request: RecommendRequest) -> RecommendAnswer:
        """The best items for a user, the best first."""
        return await service().recommend(request)

    @app.post("/score")
    async def score(request: ScoreRequest) -> ScoreAnswer:
        """What a user will give certain items."""
        return await service().score(request)

    @app.get("/health")
    async def health() -> Health:
        """Whether the service is up, and what it serves."""
        return service().health()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, validation_line(error))

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, "the service failed; its log says why")

    return app


def validation_line(error: RequestValidationError) -> str:
    """The first thing that a request has wrong: where, what was found, what was expected."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f'the body is no JSON ({reason}); expected an object such as {{"k": 10}}'
    place = ".".join(str(part) for part in first["loc"][1:] if not _is_variant(part)) or "the body"
    if first["type"] == "extra_forbidden":
        return f"a request has no {place}; see /docs for what it may have"
    if first["type"] == "missing":
        return f"{place} is missing" + ("; send a JSON object" if place == "the body" else "")
    found = repr(first["input"])
    found = found if len(found) <= 60 else f"{found[:60]}…"
    return f"{place} is {found}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _is_variant(part: Any) -> bool:
    """Whether a part of a place only names one of the types that a value may have."""
    return isinstance(part, str) and ("[" in part or part in ("dict", "list"))
