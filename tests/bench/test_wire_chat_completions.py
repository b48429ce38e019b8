"""The dialect: what may be taken for a content chunk without parsing it, and what may not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import DONE, ID, ROLE, STREAM, chunk

from bench.wire import chat_completions
from bench.wire.chat_completions import MEMO_ENTRIES, MEMO_TEXT_BYTES, Reply, api_error, known, text_of
from bench.wire.events import Content, Event, Finished, Identified, Outcome


def drained(reply: Reply) -> list[Event]:
    events: list[Event] = []
    reply.drain(events)
    return events


@given(st.one_of(st.binary(max_size=8), st.text(max_size=8).map(lambda text: json.dumps(text)[1:-1].encode())))
def test_text_of_accepts_what_is_a_json_string_between_quotes(raw: bytes) -> None:
    try:
        value = json.loads(b'"%b"' % raw)
        text = value.replace("\x1f", "\u241f").encode() or None
    except ValueError:  # bad JSON, bad UTF-8, or half a surrogate pair
        text = None
    assert text_of(raw) == text
    assert known(raw) == text


def test_long_texts_are_not_remembered() -> None:
    raw = b"x" * (MEMO_TEXT_BYTES + 1)
    assert text_of(raw) == raw
    assert known(raw) is None


def test_the_memory_is_bounded() -> None:
    for i in range(MEMO_ENTRIES + 2):
        text_of(b"bounded %d" % i)
    assert 0 < len(chat_completions._texts) <= MEMO_ENTRIES


def test_the_template_is_learned_once_and_used() -> None:
    reply = Reply(STREAM)
    reply.take(ROLE)
    assert reply.prefix == b""
    reply.take(chunk({"content": "a"}))
    assert reply.prefix + b"a" + reply.suffix == chunk({"content": "a"})
    prefix = reply.prefix
    reply.take(chunk({"content": "b"}))
    assert reply.prefix is prefix
    assert drained(reply) == [Identified(STREAM, ID), Content(STREAM, 2, b"a\x1fb")]
    assert drained(reply) == []


@pytest.mark.parametrize(
    "payload",
    [
        # The first "content" is not the one that counts.
        b'{"content":"x","choices":[{"delta":{"content":"a"}}]}',
        b'{"note":{"content":"a"},"choices":[{"delta":{"content":"a"}}]}',
        b'{"choices":[{"delta":{"content":"a","content":"a"}}]}',
        b'{"choices":[{"delta":{ "content" : "a" }}]}',
        b'{"choices":[{"delta":{"role":"assistant","content":"a"}}],"x":"\\"content\\":\\"a\\""}',
    ],
)
def test_the_template_surrounds_the_string_that_counts(payload: bytes) -> None:
    reply = Reply(STREAM)
    reply.take(payload)
    made = json.loads(reply.prefix + b"other" + reply.suffix)
    assert made["choices"][0]["delta"]["content"] == "other"
    assert json.loads(reply.prefix + b"a" + reply.suffix) == json.loads(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"choices":[{"delta":{"c\\u006fntent":"a"}}]}',  # the key is escaped: never found
        b'{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}',  # two strings count
        b'{"choices":[{"delta":{"content":"%b"}}]}' % (b"x" * 10_000),  # more than a token's chunk
    ],
)
def test_no_template_when_none_can_be_proved(payload: bytes) -> None:
    reply = Reply(STREAM)
    reply.take(payload)
    reply.take(payload)
    assert reply.prefix == b""
    (content,) = drained(reply)
    assert isinstance(content, Content)
    assert content.chunks == 2


def test_templates_are_tried_a_few_times_only() -> None:
    reply = Reply(STREAM)
    payloads = [b'{"n":%d,"choices":[{"delta":{"content":"a"}}]}' % n for n in range(100)]
    for payload in payloads:
        reply.take(payload)
    assert reply.prefix in payloads[chat_completions.TEMPLATE_TRIES - 1]
    (content,) = drained(reply)
    assert isinstance(content, Content)
    assert content.chunks == 100


@pytest.mark.parametrize("raw", [b'a","content":"b', b'a"', b'"', b"a\\", b"\x00", b"\xff", b"\\ud83d", b""])
def test_a_middle_that_is_not_one_string_is_parsed_in_full(raw: bytes) -> None:
    """Such payloads fit the template at both ends; what they say is decided by the parser."""
    reply, fresh = Reply(STREAM), Reply(STREAM)
    reply.take(chunk({"content": "a"}))
    drained(reply)
    payload = reply.prefix + raw + reply.suffix
    outcomes = []
    for each in (reply, fresh):
        try:
            each.take(payload)
        except UnicodeDecodeError:
            outcomes.append("not UTF-8")
        outcomes.append((each.texts, each.faults, each.other_bytes))
    half = len(outcomes) // 2
    assert [*outcomes[:half]] == [*outcomes[half:]]


def test_a_separator_in_a_text_is_pictured() -> None:
    reply = Reply(STREAM)
    reply.take(chunk({"content": "a\x1fb"}))
    reply.take(chunk({"content": "a\x1fb"}))
    assert drained(reply)[1] == Content(STREAM, 2, "a\u241fb\x1fa\u241fb".encode())


def test_the_first_end_counts() -> None:
    reply = Reply(STREAM)
    reply.take(DONE)
    reply.finish(Outcome.TRUNCATED, "later")
    reply.take(DONE)
    assert drained(reply) == [Finished(STREAM, Outcome.COMPLETE, "")]
    assert reply.late == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"m","type":"t","code":"c"}}', "c: m"),
        (b'{"error":{"message":"m","type":"t","code":null}}', "t: m"),
        (b'{"error":{"message":"m","code":429}}', "429: m"),
        (b'{"error":{}}', "no message"),
        (b'{"error":"plain"}', "plain"),
        (b" <html>\xff", "<html>\ufffd"),
        (b"{}", "{}"),
        (b"", ""),
    ],
)
def test_error_bodies(body: bytes, message: str) -> None:
    assert api_error(body) == message
