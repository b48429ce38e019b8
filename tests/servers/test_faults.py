"""Faults that any server can have: refusals, slow heads, broken and missing messages, silences, closes and resets."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import aiohttp
import httpx
import msgspec
import pytest
from conftest import Start
from plain import (
    DONE_FRAME,
    HANDSHAKE,
    LAST_CHUNK,
    Secured,
    framed,
    frames,
    logged,
    message,
    opened,
    payloads,
    post,
    received,
)
from serving import CHAT, PROFILES, Server, body, emissions
from test_leaving import check_stops, until_closed
from test_process import run
from test_sse import chunks, expected
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bench.certificate import SERVER_NAME, make
from servers.emission_log import Ended
from servers.faults import APPLIES, BROKEN, Api, Cut, Fault, Kind
from servers.faults import HANDSHAKE as IN_HANDSHAKE

PLACE = 3
STACKS = ["aiohttp", "websockets", "roofline", "faulty"]
KINDS = get_args(Api) + get_args(Cut)
REFUSALS = {"http_429": 429, "http_500": 500, "http_503": 503}
WAIT_S = 0.15
MOMENT_S = 0.1
"""Long enough for what should not come, and would 2 ms later."""
PROTOCOLS = ["sse", "websocket"]


@pytest.fixture(scope="module", params=STACKS)
def faulted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model for every kind, of the same name, and `quick` without a fault."""
    faults = {kind: {"kind": kind, "at": [PLACE, PLACE], "wait_s": WAIT_S} for kind in KINDS}
    profiles = dict.fromkeys([*KINDS, "quick"], PROFILES["quick"]) | {"endless": PROFILES["endless"]}
    settings = {"profiles": profiles, "faults": faults}
    server = Server(tmp_path_factory.mktemp(request.param), request.param, settings)
    yield server
    assert server.stop() == (0, "", "")


def offered(server: Server, protocol: str) -> None:
    if protocol not in server.ready["protocols"]:
        pytest.skip(f"{server.stack} does not speak {protocol}")


def until(true: Callable[[], bool]) -> None:
    """Wait for what comes soon."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stream(server: Server, protocol: str, model: str, seed: int, last: bytes | None = None) -> tuple[list[bytes], str]:
    """The payloads that a plain socket is sent, and how the connection ended.

    Behind a payload that has `last` in it, nothing is waited for longer than a moment.
    """
    with opened(server) as client:
        if protocol == "sse":
            client.sendall(post(model, seed=seed))
        else:
            client.sendall(HANDSHAKE)
            received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
            client.sendall(message(model, seed=seed))
        before = b""
        if last is not None:
            before, how = received(client, lambda seen: last in seen)
            assert how == "open"
            client.settimeout(MOMENT_S)
        if protocol == "sse":
            data, how = received(client, lambda seen: seen.endswith(LAST_CHUNK))
            events = b"".join(_chunks((before + data).partition(b"\r\n\r\n")[2]))
            return [event.removeprefix(b"data: ") for event in events.split(b"\n\n")[:-1]], how
        data, how = frames(server, client, framed(b"garbage") if model == "garbage" else DONE_FRAME)
    found, data = [], before + data
    while data[:1] == b"\x81":
        size, start = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4], "big"), 4)
        found.append(data[start : start + size])
        data = data[start + size :]
    return found, how if not data else f"{how} {data.hex()}"


def _chunks(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_over_http(faulted: Server, kind: str) -> None:
    offered(faulted, "sse")
    for streamed in (True, False):
        seed = 100 + streamed
        refused = httpx.post(faulted.http + CHAT, json=body(kind, seed=seed, stream=streamed))
        assert refused.status_code == REFUSALS[kind]
        assert refused.headers.get("retry-after") == (None if kind == "http_500" else "1")
        assert list(refused.json()["error"]) == ["message", "type", "param", "code"]
        assert httpx.post(faulted.http + CHAT, json=body(kind, seed=seed, stream=streamed)).status_code == 200
        assert [s["attempt"] for s in logged(faulted, kind, seed)] == [0], "what was refused is no stream"


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_over_websocket(faulted: Server, kind: str) -> None:
    async def run() -> Any:
        async with asyncio.timeout(20), connect(faulted.ws) as client:
            await client.send(json.dumps(body(kind, seed=102)))
            error = json.loads(await client.recv())
            await client.send(json.dumps(body(kind, seed=102)))
            assert [await client.recv() for _ in range(15)][-1] == "[DONE]"
            return error["error"]

    error = asyncio.run(run())
    assert error["code"] == {"http_429": "rate_limit_exceeded", "http_500": None, "http_503": "overloaded"}[kind]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_head(faulted: Server, protocol: str) -> None:
    offered(faulted, protocol)
    seed = PROTOCOLS.index(protocol)
    with opened(faulted) as client:
        if protocol == "websocket":
            client.sendall(HANDSHAKE)
            received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
        client.sendall(post("slow_head", seed=seed) if protocol == "sse" else message("slow_head", seed=seed))
        client.recv(1)
        came_ns = time.monotonic_ns()
        received(client, lambda seen: seen.endswith(LAST_CHUNK if protocol == "sse" else DONE_FRAME))
    (entry,) = logged(faulted, "slow_head", seed)
    taken_up_ns, tokens = entry["taken_up_ns"], entry["tokens"]
    assert [due for _, due, _ in tokens] == [taken_up_ns + (4 + 2 * place) * 10**6 for place in range(12)]
    assert min(came_ns, tokens[0][2]) >= taken_up_ns + WAIT_S * 10**9
    assert entry["ended"] == Ended.COMPLETE


def test_a_client_that_leaves_before_a_slow_head(start: Start, stack: str) -> None:
    server = start(stack, faults={"quick": {"kind": "slow_head", "wait_s": 60}})
    with opened(server) as client:
        if "sse" in server.ready["protocols"]:
            client.sendall(post("quick", seed=1))
        else:
            client.sendall(HANDSHAKE)
            received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
            client.sendall(message("quick", seed=1))
        until(lambda: bool(server.streams()))
    (entry,) = logged(server, "quick", 1)
    assert (entry["ended"], entry["tokens"]) == (Ended.CLIENT_GONE, [])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["invalid_json", "error_event", "no_done", "garbage"])
def test_what_is_sent_besides_or_instead(faulted: Server, kind: str, protocol: str) -> None:
    offered(faulted, protocol)
    seed = 200 + PROTOCOLS.index(protocol)
    last = {"error_event": b'{"error"', "no_done": b'"stop"'}.get(kind) if protocol == "websocket" else None
    found, how = stream(faulted, protocol, kind, seed, last)
    whole = payloads(found[0], "quick", seed)
    if kind == "invalid_json":
        wanted = [*whole[: PLACE + 1], found[PLACE + 1], *whole[PLACE + 1 :]]
        assert whole[PLACE + 1].startswith(found[PLACE + 1])
        assert 2 * len(found[PLACE + 1]) - len(whole[PLACE + 1]) in (-1, 0, 1, 2)
    elif kind == "error_event":
        wanted = [*whole[: PLACE + 1], found[-1]]
        assert json.loads(found[-1])["error"]["type"] == "server_error"
    elif kind == "no_done":
        wanted = whole[:-1]
    else:
        wanted = [*whole, b"garbage"]
    assert found == wanted
    assert how == ("silence" if last else "open")
    (entry,) = logged(faulted, kind, seed)
    sent = PLACE if kind == "error_event" else 12
    assert [token[0] for token in entry["tokens"]] == list(range(sent))
    assert entry["ended"] == (Ended.CUT if kind in ("error_event", "no_done") else Ended.COMPLETE)
    assert entry["ended_ns"] >= entry["tokens"][-1][2]


@pytest.mark.parametrize("kind", ["invalid_json", "error_event", "no_done", "garbage"])
def test_the_connection_goes_on_behind_them(faulted: Server, kind: str) -> None:
    async def run() -> list[str | bytes]:
        async with asyncio.timeout(10), connect(faulted.ws) as client:
            await client.send(json.dumps(body(kind, seed=210)))
            last = {"error_event": '{"error"', "no_done": '"stop"', "garbage": "garbage"}.get(kind, "[DONE]")
            while last not in str(await client.recv()):
                pass
            if kind == "no_done":
                logged(faulted, kind, 210)
            await client.send(json.dumps(body(kind, seed=210)))
            return [await client.recv() for _ in range(15)]

    last = asyncio.run(run())
    assert last[-1] == "[DONE]"
    if "sse" in faulted.ready["protocols"]:
        with httpx.Client() as client:
            for _ in range(2):
                reply = client.post(faulted.http + CHAT, json=body(kind, seed=211))
                assert reply.headers.get("connection", "") != "close"
            assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks(reply.text)][1:-1] == expected(
                "quick", 211
            )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stall(faulted: Server, protocol: str) -> None:
    offered(faulted, protocol)
    seed = 300 + PROTOCOLS.index(protocol)
    text = msgspec.json.encode(expected("quick", seed)[PLACE - 1])
    found, how = stream(faulted, protocol, "stall", seed, b'"content":' + text)
    assert (len(found), how) == (1 + PLACE, "silence")
    check_cut(faulted, "stall", seed)


def check_cut(server: Server, model: str, seed: int) -> None:
    """The log of a stream that was cut says so, at the time when the next chunk was due, and once."""
    (entry,) = logged(server, model, seed)
    assert [token[0] for token in entry["tokens"]] == list(range(PLACE))
    assert entry["ended"] == Ended.CUT
    assert entry["ended_ns"] >= entry["taken_up_ns"] + (4 + 2 * PLACE) * 10**6


def test_a_stalled_stream_can_be_cancelled(faulted: Server) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), connect(faulted.ws) as client:
            await client.send(json.dumps(body("stall", seed=310)))
            for _ in range(1 + PLACE):
                await client.recv()
            logged(faulted, "stall", 310)
            await client.send('{"type":"cancel"}')
            assert await client.recv() == "[DONE]"

    asyncio.run(run())
    check_cut(faulted, "stall", 310)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["close", "reset"])
def test_cuts(faulted: Server, kind: str, protocol: str) -> None:
    offered(faulted, protocol)
    seed = 400 + PROTOCOLS.index(protocol)
    found, how = stream(faulted, protocol, kind, seed)
    assert found == payloads(found[0], "quick", seed)[: 1 + PLACE]
    if kind == "close":
        assert how == ("fin" if protocol == "sse" else "fin 880203e9"), "over WebSocket with 1001"
    else:
        assert how == "reset"
    check_cut(faulted, kind, seed)


@pytest.mark.parametrize("kind", ["close", "reset"])
def test_cuts_as_clients_see_them(faulted: Server, kind: str) -> None:
    async def by_aiohttp() -> bytes:
        async with (
            aiohttp.ClientSession() as session,
            session.post(faulted.http + CHAT, json=body(kind, seed=411)) as reply,
        ):
            return await reply.read()

    if "sse" in faulted.ready["protocols"]:
        with pytest.raises(httpx.RemoteProtocolError if kind == "close" else httpx.ReadError):
            httpx.post(faulted.http + CHAT, json=body(kind, seed=410))
        with pytest.raises(aiohttp.ClientPayloadError) as caught:
            asyncio.run(by_aiohttp())
        assert ("ConnectionResetError" in str(caught.value)) == (kind == "reset")

    async def run() -> int | None:
        async with asyncio.timeout(10), connect(faulted.ws) as client:
            await client.send(json.dumps(body(kind, seed=412)))
            with pytest.raises(ConnectionClosed):
                await until_closed(client)
            return client.close_code

    assert asyncio.run(run()) == (1001 if kind == "close" else 1006)


def test_others_on_the_server_are_unharmed_and_nothing_is_left(faulted: Server) -> None:
    """Also beside streams that stall, and after clients that left."""
    pid = faulted.process.pid

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    def patience(model: str) -> float:
        return 10 if model == "quick" else 0.4

    async def websocket(model: str, seed: int) -> list[str]:
        seen: list[str] = []
        async with connect(faulted.ws) as client:
            await client.send(json.dumps(body(model, seed=seed)))
            try:
                async with asyncio.timeout(patience(model)):
                    while not seen or seen[-1] != "[DONE]":
                        seen.append(str(await client.recv()))
            except (ConnectionClosed, TimeoutError):
                pass
        return seen

    async def event_stream(model: str, seed: int) -> list[str]:
        try:
            async with httpx.AsyncClient(timeout=patience(model)) as client:
                reply = await client.post(faulted.http + CHAT, json=body(model, seed=seed))
                return [line[6:] for line in reply.text.split("\n") if line]
        except httpx.HTTPError:
            return []

    async def run() -> None:
        ways = [websocket, event_stream] if "sse" in faulted.ready["protocols"] else [websocket]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            good = [group.create_task(way("quick", seed)) for way in ways for seed in range(500, 504)]
            for way in ways:
                for seed, kind in enumerate(KINDS):
                    group.create_task(way(kind, 500 + seed))
        for place, task in enumerate(good):
            texts = [json.loads(data)["choices"][0]["delta"].get("content") for data in task.result()[1:-2]]
            assert texts == expected("quick", 500 + place % 4)

    asyncio.run(asyncio.wait_for(websocket("quick", 499), 10))
    before = descriptors()
    asyncio.run(run())
    until(lambda: descriptors() <= before)


def test_a_stop_does_not_wait_for_what_stalls_or_is_held(start: Start) -> None:
    faults = {"quick": {"kind": "stall"}, "instant": {"kind": "slow_head", "wait_s": 600}}
    servers = [start(stack, faults=faults) for stack in STACKS]
    with ExitStack() as stack:
        for server in servers:
            clients = [stack.enter_context(opened(server)) for _ in range(4)]
            for seed, (client, model) in enumerate(zip(clients, ("quick", "instant") * 2, strict=True)):
                if client in clients[:2] and "sse" in server.ready["protocols"]:
                    client.sendall(post(model, seed=seed))
                else:
                    client.sendall(HANDSHAKE)
                    received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
                    client.sendall(message(model, seed=seed))
        for server in servers:
            until(lambda log=server.log: ends(log) == [0, 0, Ended.CUT, Ended.CUT])
        check_stops(servers)
        for server in servers:
            assert ends(server.log) == [Ended.SHUTDOWN] * 2 + [Ended.CUT] * 2


def ends(log: Path) -> list[int]:
    return sorted(entry["ended"] or 0 for entry in emissions(log))


@pytest.mark.parametrize("stack", STACKS)
def test_the_same_streams_on_every_stack(start: Start, stack: str) -> None:
    """Which, and where, follows from the seeds alone."""
    fault = {"kind": "close", "share": 0.4, "at": [1, 9], "attempts": 0}
    server = start(stack, profiles={"instant": PROFILES["instant"]}, faults={"instant": fault})
    rule = msgspec.convert(fault, Fault)
    wanted = [rule.ordinal(seed, 64) if rule.meets(seed) else 64 for seed in range(30)]
    protocol = server.ready["protocols"][0]
    assert 5 < sum(chunks_ < 64 for chunks_ in wanted) < 20
    assert len(set(wanted)) > 4
    for seed in range(30):
        stream(server, protocol, "instant", seed)
    server.stop()
    assert [len(entry["tokens"]) for entry in server.streams()] == wanted


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stack", STACKS)
def test_a_stream_that_breaks_off_again_and_is_resumed(start: Start, stack: str, protocol: str) -> None:
    fault = {"kind": "close", "at": [2, 4], "attempts": 2}
    server = start(stack, resumable=["quick"], faults={"quick": fault})
    offered(server, protocol)
    rule = msgspec.convert(fault, Fault)
    first = rule.ordinal(5, 12)
    second = first + rule.ordinal(5, 12 - first, 1)
    texts: list[str] = []
    completion, events, ways = "", 0, []
    for _ in range(3):
        resume = {"last_event_id": f"{completion}:{events - 1}"} if events else {}
        if protocol == "sse":
            with opened(server) as client:
                client.sendall(post("quick", seed=5, **resume))
                data, how = received(client, lambda seen: seen.endswith(LAST_CHUNK))
            found = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
        else:
            with opened(server) as client:
                client.sendall(HANDSHAKE)
                received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
                client.sendall(message("quick", seed=5, **resume))
                data, how = frames(server, client, DONE_FRAME)
            found = [b'{"id"' + part for part in data.split(b'{"id"')[1:]]
            found = [part[: part.rindex(b"}") + 1] for part in found]
        ways.append(how)
        events += len(found)
        for item in found:
            if item != b"[DONE]":
                made = json.loads(item)
                completion = made["id"]
                texts += [made["choices"][0]["delta"].get("content") or ""]
    assert ways == ["fin", "fin", "open"]
    assert "".join(texts) == "".join(expected("quick", 5))
    entries = logged(server, "quick", 5, 3)
    spans = [(entry["first"], entry["first"] + len(entry["tokens"])) for entry in entries]
    assert spans == [(0, first), (first, second), (second, 12)]
    assert [entry["ended"] for entry in entries] == [Ended.CUT, Ended.CUT, Ended.COMPLETE]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("stack", STACKS)
def test_resets_and_closes_under_tls(start: Start, stack: str, loop: str, certificate: Any) -> None:
    """On both event loops, in the clear (for asyncio) and under TLS."""
    tls = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    faults = {kind: {"kind": kind, "attempts": 0} for kind in ("close", "reset")}
    profiles = dict.fromkeys(faults, PROFILES["quick"])
    trust = ssl.create_default_context(cafile=str(certificate.ca_file))
    ways: list[dict[str, Any]] = [{"tls": tls}] if loop == "uvloop" else [{}, {"tls": tls}]
    for way in ways:
        server = start(stack, loop=loop, profiles=profiles, faults=faults, **way)
        ends = {}
        for kind in faults:
            plain = opened(server)
            secure = server.ready["settings"]["tls"]
            with plain:
                client = Secured(plain, trust, SERVER_NAME) if secure else plain
                if "sse" in server.ready["protocols"]:
                    client.sendall(post(kind, seed=1))
                else:
                    client.sendall(HANDSHAKE)
                    received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
                    client.sendall(message(kind, seed=1))
                ends[kind] = frames(server, client, DONE_FRAME)[1]
        assert ends == {"close": "fin", "reset": "reset"}
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize("kind", ["bad_utf8", "masked_frame"])
def test_broken_kinds_need_stack_faulty(tmp_path: Path, kind: str) -> None:
    assert kind in BROKEN
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"faults": {"chat": {"kind": kind}}}))
    code, line = run("aiohttp", "--config", str(path))
    assert code == 2
    assert f"{path}: faults.chat.kind = '{kind}': stack 'aiohttp' cannot send such bytes" in line


def test_a_fault_of_no_model(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"faults": {"chatt": {"kind": "close"}}}))
    code, line = run("roofline", "--config", str(path))
    assert code == 2
    assert "faults.chatt: no such model; it must be one of" in line


def test_the_ready_line_names_faults(start: Start) -> None:
    assert "faults" not in start().ready["settings"]
    faults = start("roofline", faults={"quick": {"kind": "stall", "share": 0.5}}).ready["settings"]["faults"]
    assert faults == {"quick": {"kind": "stall", "share": 0.5, "at": [1, 1], "wait_s": 1.0, "attempts": 1, "byte": 0}}


def test_every_kind_applies_to_something() -> None:
    kinds = [kind for group in get_args(Kind) for kind in (get_args(group) or (group,))]
    assert set(APPLIES) == set(kinds)
    assert all(APPLIES[kind] == ("sse", "websocket") for kind in KINDS)
    assert all(protocols and set(protocols) <= set(PROTOCOLS) for protocols in APPLIES.values())
    assert all(APPLIES[kind] == ("websocket",) for kind in IN_HANDSHAKE)


def test_which_requests_it_happens_to() -> None:
    once, always = Fault("close"), Fault("close", attempts=0)
    assert [once.happens(1, request) for request in range(3)] == [True, False, False]
    assert all(always.happens(1, request) for request in range(100))
    some = Fault("close", share=0.25, attempts=2)
    met = [seed for seed in range(4000) if some.happens(seed, 0)]
    assert 0.2 < len(met) / 4000 < 0.3
    assert all(some.happens(seed, 1) and not some.happens(seed, 2) for seed in met)


def test_where_it_happens() -> None:
    fault = Fault("close", at=(2, 5))
    assert {fault.ordinal(seed, 100) for seed in range(200)} == {2, 3, 4, 5}
    assert {fault.ordinal(seed, 4) for seed in range(200)} == {2, 3}, "the last one where fewer are left"
    assert fault.ordinal(1, 0) == -1
    assert len({fault.ordinal(7, 100, request) for request in range(30)}) == 4, "each request has a draw of its own"
    assert fault.ordinal(7, 100) == fault.ordinal(7, 100, 0)
