"""The chat completions dialect: what a request may hold, and the bytes of every reply.

JSON is compact and raw UTF-8. The same bytes travel after `data: ` over SSE and as text messages over WebSocket.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, NoReturn

import msgspec

from servers.vocabulary import VOCABULARIES

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
DONE = b"[DONE]"

_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)


class Part(msgspec.Struct):
    """One part of a message's content; only text counts here, images and the like are accepted."""

    type: str
    text: str = ""


class Message(msgspec.Struct):
    """One turn of the conversation so far."""

    role: str
    content: str | list[Part] | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {self.role!r}")


class StreamOptions(msgspec.Struct):
    """Options of a streamed reply."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """A request body. Fields this server has no use for are accepted, as the real API's clients send many."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = 1
    seed: Annotated[int, _INT64] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    last_event_id: str | None = None
    """Over WebSocket, what `Last-Event-ID` is over SSE."""

    @property
    def limit(self) -> int | None:
        """The most tokens one choice may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a streamed reply ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens by the rule of thumb of four bytes each, and four for every message's frame."""
        total = 0
        for message in self.messages:
            content = message.content or ""
            text = content if isinstance(content, str) else "".join(part.text for part in content)
            total += 4 + -(-len(text.encode()) // 4)
        return total


class Unreadable(Exception):
    """What came is not JSON, or not a JSON object."""


class ApiError(Exception):
    """A refusal, as the API's clients know it: an HTTP status and an error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.code = code
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


class _Kind(msgspec.Struct):
    type: object = None


_kind_decoder = msgspec.json.Decoder(_Kind)
_request_decoder = msgspec.json.Decoder(ChatRequest)


def is_cancel(body: bytes | str) -> bool:
    """Tell whether a WebSocket message asks to stop the running stream. Raises `Unreadable`."""
    try:
        return _kind_decoder.decode(body).type == "cancel"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not a JSON object: {error}") from error


def parse_request(body: bytes | str) -> ChatRequest:
    """Decode and check a request body. Raises `ApiError` (400) that names the field at fault."""
    try:
        return _request_decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from error


def parse_query(query: dict[str, str]) -> ChatRequest:
    """Make a request of query parameters, as a browser's EventSource can only GET.

    `include_usage` stands for the stream option, `messages` is JSON or, as `prompt`, one user message in plain text.
    The reply is always streamed. Raises `ApiError` (400).
    """
    fields: dict[str, object] = dict(query)
    fields["stream"] = True
    if "include_usage" in query:
        fields["stream_options"] = {"include_usage": query["include_usage"]}
    if "messages" in query:
        try:
            fields["messages"] = msgspec.json.decode(query["messages"])
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(400, f"'messages' is not valid JSON: {error}", param="messages") from error
    else:
        fields["messages"] = [{"role": "user", "content": query.get("prompt", "")}]
    try:
        return msgspec.convert(fields, ChatRequest, strict=False)
    except msgspec.ValidationError as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    """Raise the 400 for a msgspec complaint such as "Expected `int`, got `str` - at `$.seed`"."""
    message, _, path = reason.partition(" - at `$")
    missing = re.search(r"missing required field `(\w+)`", message)
    param = f"{path.rstrip('`')}.{missing[1]}" if missing else path.rstrip("`")
    param = param.removeprefix(".")
    raise ApiError(400, f"Invalid '{param}': {message}." if param else f"{message}.", param=param or None)


class _Escaped(dict[str, bytes]):
    """JSON strings by text: those of the vocabularies are kept, others are made anew."""

    def __missing__(self, text: str) -> bytes:
        return msgspec.json.encode(text)


_ESCAPED = _Escaped((text, msgspec.json.encode(text)) for words in VOCABULARIES.values() for text in words)

escaped: Callable[[str], bytes] = _ESCAPED.__getitem__
"""A text as a JSON string with its quotes: a look-up for a token, so nearly always."""


class Chunks:
    """The JSON of every chunk of one streamed completion.

    With `usage` each chunk but the last says `"usage":null`, as the real API's do when asked for usage.
    """

    def __init__(self, completion_id: str, created: int, model: str, usage: bool) -> None:
        self._head = b'{"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            completion_id.encode(),
            created,
            escaped(model),
        )
        self._tail = b'],"usage":null}' if usage else b"]}"

    def role(self, index: int) -> bytes:
        """The chunk that opens a choice."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"finish_reason":null}' % index
        return self._head + delta + self._tail

    def around_content(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the JSON string of a content chunk."""
        before = self._head + b'{"index":%d,"delta":{"content":' % index
        return before, b'},"finish_reason":null}' + self._tail

    def stop(self, index: int, reason: str) -> bytes:
        """The chunk that ends a choice, with "stop" or "length"."""
        return self._head + b'{"index":%d,"delta":{},"finish_reason":"%b"}' % (index, reason.encode()) + self._tail

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """The chunk that counts tokens."""
        return self._head + b'],"usage":' + _usage(prompt_tokens, completion_tokens) + b"}"


def _usage(prompt: int, completion: int) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completion, prompt + completion)


def completion_body(
    completion_id: str,
    created: int,
    model: str,
    choices: list[tuple[str, str]],
    prompt_tokens: int,
    completion_tokens: int,
) -> bytes:
    """The whole reply to a request that does not stream; `choices` are (text, finish reason)."""
    return b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b}' % (
        completion_id.encode(),
        created,
        escaped(model),
        b",".join(
            b'{"index":%d,"message":{"role":"assistant","content":%b},"logprobs":null,"finish_reason":"%b"}'
            % (index, msgspec.json.encode(text), reason.encode())
            for index, (text, reason) in enumerate(choices)
        ),
        _usage(prompt_tokens, completion_tokens),
    )


def models_body(names: list[str]) -> bytes:
    """The reply to GET /v1/models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "tokenwire"} for name in names]
    return msgspec.json.encode({"object": "list", "data": data})
