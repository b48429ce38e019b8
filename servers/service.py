"""What every stack owes apart from sockets: admission, the plain endpoints, headers, and ending all streams."""

from __future__ import annotations

import asyncio
from itertools import count
from time import monotonic_ns
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from servers.emission_log import EmissionLog, Ended
from servers.generation import Framing, Generation
from servers.pacing import Pacer
from servers.payloads.chat_completions import ApiError, ChatRequest, models_body
from servers.plant import Planted
from servers.registry import Registry
from servers.settings import Settings

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
HEALTH_PATH = "/healthz"

MAX_BODY = 1 << 20
"""Bytes of the largest request body or message taken."""

JSON = "application/json"
CORS = {"access-control-allow-origin": "*", "access-control-expose-headers": "x-request-id, openai-processing-ms"}
PREFLIGHT = CORS | {
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, content-type, last-event-id, cache-control, x-requested-with",
    "access-control-max-age": "86400",
}


class Reply(NamedTuple):
    """An HTTP reply that is no stream."""

    status: int
    headers: dict[str, str]
    body: bytes


class Service:
    """The state that the connections of one process share."""

    def __init__(self, settings: Settings, pacer: Pacer, log: EmissionLog) -> None:
        self.settings = settings
        self.pacer = pacer
        self.log = log
        self.closing = False
        self._registry = Registry(settings.profiles, settings.faults)
        self._planted = None if settings.plant is None else Planted(settings.plant)
        self._running: set[Generation] = set()
        self._requests = count(1)
        self._models = models_body(list(settings.profiles))

    def headers(self, taken_up_ns: int) -> dict[str, str]:
        """Headers of every reply of the API; their width never varies, so that replies compare byte for byte."""
        return CORS | {
            "x-request-id": f"req_{next(self._requests):032x}",
            "openai-processing-ms": f"{min(999_999, (monotonic_ns() - taken_up_ns) // 1_000_000):06d}",
        }

    def authorize(self, authorization: str | None) -> None:
        """Check the value of the Authorization header. Raises `ApiError` (401)."""
        key = self.settings.api_key
        if key is not None and authorization != f"Bearer {key}":
            message = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            headers = {"www-authenticate": "Bearer"}
            raise ApiError(401, message, code="invalid_api_key", headers=headers)

    def open_for_requests(self) -> None:
        """Raise `ApiError` (503) when shutting down."""
        if self.closing:
            message = "The server is shutting down."
            raise ApiError(503, message, kind="server_error", code="shutting_down", headers={"retry-after": "1"})

    def begin(
        self, request: ChatRequest, taken_up_ns: int, framing: Framing, last_event_id: str | None = None
    ) -> Generation:
        """Admit a request and log it. Whoever calls this calls `end` in any event.

        Raises `ApiError`: 404 unknown model, 400 or 204 when resuming, 429 too many streams, 503 when shutting down,
        and what a fault of the settings makes of the request.
        """
        self.open_for_requests()
        limit = self.settings.max_streams
        if limit and len(self._running) >= limit:
            message = f"Rate limit reached: {limit} streams are running, which is the most this server serves."
            headers = {"retry-after": "1"}
            raise ApiError(429, message, kind="requests", code="rate_limit_exceeded", headers=headers)
        generation = self._registry.generation(request, taken_up_ns, last_event_id)
        generation.framing = framing
        generation.planted = self._planted
        if framing.before:
            generation.heartbeat_ns = round((self.settings.heartbeat(None) or 0) * 1e9)
        generation.stream = self.log.open(generation.completion_id, taken_up_ns, generation.first_ordinal)
        self._running.add(generation)
        return generation

    def end(self, generation: Generation) -> None:
        """Log that nothing more will be sent of `generation`, and give its place free."""
        if generation in self._running:
            self._running.discard(generation)
            if not generation.end_logged:
                self.log.close_stream(generation.stream, monotonic_ns(), generation.ended)
            generation.forget()

    async def shut_down(self, patience_s: float) -> None:
        """Refuse new requests and end all streams; wait `patience_s` at most for their tasks."""
        self.closing = True
        for generation in self._running:
            generation.stop(Ended.SHUTDOWN)
        tasks = [generation.task for generation in self._running if generation.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=patience_s)
        for generation in list(self._running):
            self.end(generation)

    def plain(self, method: str, target: str, authorization: str | None, taken_up_ns: int) -> Reply:
        """Answer what is not a chat completion: preflights, health, models, and errors for everything else.

        `target` is a path with or without a query.
        """
        try:
            return self._endpoint(method, split_target(target).path, authorization, taken_up_ns)
        except ApiError as error:
            return self.refusal(error, taken_up_ns)

    def _endpoint(self, method: str, path: str, authorization: str | None, taken_up_ns: int) -> Reply:
        methods = {CHAT_PATH: ("GET", "POST"), MODELS_PATH: ("GET", "HEAD"), HEALTH_PATH: ("GET", "HEAD")}.get(path)
        if methods is None:
            raise ApiError(404, f"There is nothing at {path}.", code="unknown_url")
        if method == "OPTIONS":
            return Reply(204, PREFLIGHT, b"")
        if method not in methods:
            allowed = ", ".join((*methods, "OPTIONS"))
            raise ApiError(405, f"{method} is not allowed here, but {allowed}.", headers={"allow": allowed})
        if path == HEALTH_PATH:
            return Reply(200, CORS | {"content-type": JSON}, b'{"status":"ok"}')
        self.authorize(authorization)
        return Reply(200, self.headers(taken_up_ns) | {"content-type": JSON}, self._models)

    def refusal(self, error: ApiError, taken_up_ns: int) -> Reply:
        """The reply that tells `error`. 204 has no body (RFC 9110, 15.3.5)."""
        headers = self.headers(taken_up_ns) | error.headers
        if error.status == 204:
            return Reply(204, headers, b"")
        return Reply(error.status, headers | {"content-type": JSON}, error.body)


def split_target(target: str) -> SplitResult:
    """The parts of a request target. Raises `ApiError` (400) when it is not a URL."""
    try:
        return urlsplit(target)
    except ValueError as error:
        raise ApiError(400, f"The request target is not a URL: {error}.") from error


def internal_error() -> ApiError:
    """What a client is told of a fault of ours."""
    return ApiError(500, "The server had an error while processing your request.", kind="server_error")
