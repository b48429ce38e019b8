"""Locust's own users in a process of their own, since importing Locust patches the standard library.

Reads cases from standard input, `{"case": NAME, "port": PORT}` a line, and tells what happens, a line of JSON each,
with the kind under "told":

- "wants": the client is about to wait for bytes, and has read "read" of them by now. Who serves knows by it that all
  it sent was taken in, without a clock.
- "seen": the user's code got a line or a message.
- "request": Locust recorded a request.
- "record": what tokenwire keeps of a stream that has ended.
- "due": a schedule that waits for nobody would have begun its "due"-th stream; the users began "started".
- "over": the case has ended.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns, perf_counter, perf_counter_ns
from typing import Any, ClassVar, TypeVar

import gevent
import gevent.event
import gevent.socket
import locust
import websocket
from locust import FastHttpUser, HttpUser, LoadTestShape, User, task
from locust.contrib.fasthttp import FastHttpSession
from locust.contrib.socketio import SocketIOUser
from locust.dispatch import UsersDispatcher
from locust.env import Environment
from locust.runners import WorkerNode
from locust.stats import RequestStats

from bench.arrivals import NS, open_offsets
from bench.drivers.connection import Connection
from bench.drivers.gevent_ import GeventEngine, carry_out
from bench.rawlog import StreamRecord
from bench.swarm import options
from bench.swarm.users import SSEUser, WebSocketUser
from bench.swarm.wiring import EvenDispatcher
from bench.swarm.worker import Lane

CHAT = "/v1/chat/completions"
BODY = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
RATE = 50
"""Streams a second."""

AnyUser = TypeVar("AnyUser", bound=User)

reports = os.fdopen(os.dup(1), "w", buffering=1)
read = 0


def tell(kind: str, **facts: Any) -> None:
    reports.write(json.dumps({"told": kind, **facts}) + "\n")


def watch_reads() -> None:
    """Have every socket tell before it waits."""

    def watched(name: str) -> None:
        original = getattr(gevent.socket.socket, name)

        def reading(self: gevent.socket.socket, *arguments: Any) -> Any:
            global read
            tell("wants", read=read)
            got = original(self, *arguments)
            read += got if isinstance(got, int) else len(got)
            return got

        setattr(gevent.socket.socket, name, reading)

    watched("recv")
    watched("recv_into")


def environment(**settings: Any) -> Environment:
    """Locust's, which tells what is recorded."""
    made = Environment(**settings)

    def recorded(request_type: str, name: str, response_time: float, **_: Any) -> None:
        tell("request", type=request_type, name=name, response_time=response_time)

    made.events.request.add_listener(recorded)
    return made


def user_at(kind: type[AnyUser], port: int) -> AnyUser:
    kind.host = f"http://127.0.0.1:{port}"
    return kind(environment())


# What a user's code sees of a stream, and when.


def fast_iter_lines(port: int) -> None:
    """FastHttpUser as the documentation has it for streams."""
    for line in user_at(FastHttpUser, port).client.iter_lines(CHAT, method="POST", json=BODY):
        if line:
            tell("seen", text=line)


def fast_whole(port: int) -> None:
    """FastHttpUser without `stream=True`."""
    for line in user_at(FastHttpUser, port).client.post(CHAT, json=BODY).text.splitlines():
        if line:
            tell("seen", text=line)


def http_iter_lines(port: int) -> None:
    """HttpUser, a line at a time."""
    for line in user_at(HttpUser, port).client.post(CHAT, json=BODY, stream=True).iter_lines():
        if line:
            tell("seen", text=line.decode())


def http_whole(port: int) -> None:
    """HttpUser without `stream=True`."""
    for line in user_at(HttpUser, port).client.post(CHAT, json=BODY).iter_lines():
        if line:
            tell("seen", text=line.decode())


def caught(kind: type[FastHttpUser] | type[HttpUser], port: int) -> None:
    """A `with` block around the whole stream: what is recorded at its end?"""
    client = user_at(kind, port).client
    start = perf_counter()
    with client.post(CHAT, json=BODY, stream=True, catch_response=True) as response:
        tell("opened", ms=(perf_counter() - start) * 1e3)
        for _ in response.iter_content(1024):
            pass


def openai(port: int) -> None:
    """Locust's user for OpenAI's interface."""
    os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    from locust.contrib.oai import OpenAIUser  # wants the key in the environment

    client = OpenAIUser(environment()).client
    client.max_retries = 0
    for chunk in client.chat.completions.create(**BODY):
        tell("seen", text=chunk.choices[0].delta.content)


# What is recorded of WebSocket.


def socketio(port: int) -> None:
    """Locust's only user that speaks WebSocket, until the server leaves."""

    class Once(SocketIOUser):
        options: ClassVar[dict[str, Any]] = {"reconnection": False}

    user = user_at(Once, port)
    user.sio.connect(user.host, transports=["websocket"])
    user.sio.emit("ask", BODY)
    user.sio.wait()
    tell("stats", p99=user.environment.stats.get("token", "WSR").get_response_time_percentile(0.99))


def websocket_measured(port: int) -> None:
    """`websocket-client` in a plain user, with `measure` around what the user does: it sends."""
    request = user_at(User, port).environment.events.request
    connection = websocket.create_connection(f"ws://127.0.0.1:{port}{CHAT}")
    with request.measure("WS", "ask"):
        connection.send(json.dumps(BODY))
    while (message := connection.recv()) != "[DONE]":
        tell("seen", text=message)


# When users begin streams.


class Reference:
    """Tells when a schedule of `RATE` streams a second, the first of them now, would begin each."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.started_ns: list[int] = []
        """Since the first."""
        self._zero_ns = 0
        self.over = gevent.event.Event()

    def begun(self, after: int = 1) -> None:
        """Count a stream; the schedule begins with the stream `after`."""
        now_ns = perf_counter_ns()
        self._zero_ns = self._zero_ns or now_ns
        self.started_ns.append(now_ns - self._zero_ns)
        if len(self.started_ns) == after:
            gevent.spawn(self._run, now_ns)

    def _run(self, zero_ns: int) -> None:
        for due, offset in enumerate(open_offsets("constant", RATE, self.streams / RATE, seed=1), 1):
            gevent.sleep(max(0.0, (zero_ns + offset - perf_counter_ns()) / NS))
            tell("due", due=due, started=len(self.started_ns), started_ns=self.started_ns)
        self.over.set()


def throughput(port: int, wait: str, users: int, streams: int) -> None:
    """Users who wait between streams so that there would be `RATE` a second."""
    reference = Reference(streams)
    per_user = RATE / users

    class Waiting(FastHttpUser):
        host = f"http://127.0.0.1:{port}"
        wait_time = getattr(locust, wait)(1 / per_user if wait in ("constant", "constant_pacing") else per_user)

        @task
        def stream(self) -> None:
            reference.begun(after=users)
            self.client.get("/")

    runner = environment(user_classes=[Waiting]).create_local_runner()
    runner.start(users, spawn_rate=100)
    reference.over.wait()
    runner.quit()


def shape(port: int, users: int, streams: int) -> None:
    """A load shape sets users. They never wait between streams."""
    reference = Reference(streams)

    class Eager(FastHttpUser):
        host = f"http://127.0.0.1:{port}"

        @task
        def stream(self) -> None:
            reference.begun(after=users)
            self.client.get("/")

    class Flat(LoadTestShape):
        def tick(self) -> tuple[int, float]:
            return users, 100

    runner = environment(user_classes=[Eager], shape_class=Flat()).create_local_runner()
    runner.start_shape()
    reference.over.wait()
    runner.quit()


def open_loop(port: int, streams: int) -> None:
    """The same client, begun by the clock: nothing of Locust decides when."""
    session = FastHttpSession(f"http://127.0.0.1:{port}", environment().events.request, None, concurrency=streams)
    offsets = open_offsets("constant", RATE, streams / RATE, seed=1)
    gevent.joinall([gevent.spawn_later(offset / NS, session.get, "/") for offset in offsets], raise_error=True)


# What statistics keep.


def percentiles(response_times_ms: list[float]) -> None:
    """What each response time is, as the median of ten of it."""
    medians = []
    for response_time in response_times_ms:
        stats = RequestStats()
        for _ in range(10):
            stats.log_request("POST", CHAT, response_time, 0)
        medians.append(stats.get(CHAT, "POST").get_response_time_percentile(0.5))
    tell("medians", ms=medians)


# The same of tokenwire's streams.


@contextmanager
def lane(protocol: str, port: int) -> Iterator[Lane]:
    """What tokenwire's users have their streams from; tells of what it takes in before it waits for more."""
    original = Connection.data_received

    def taking(self: Connection, data: bytes) -> None:
        global read
        session = self.session
        before = len(session._texts)
        original(self, data)
        read += len(data)
        for text in session._texts[before:]:
            tell("seen", text=text.decode())
        tell("wants", read=read)

    wanted = Namespace(scenario="chat", phase="", protocol=protocol, rate=0.0, arrivals="constant", ca_file="")
    known = options.read(wanted, f"http://127.0.0.1:{port}")
    Connection.data_received = taking  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Lane(protocol, known, GeventEngine(), Path(folder), environment().events, 0, "traps")
            yield made
            made.close()
    finally:
        Connection.data_received = original  # type: ignore[method-assign]


def tokenwire(protocol: str, port: int) -> None:
    """One stream."""
    with lane(protocol, port) as streams:
        record: StreamRecord = carry_out(streams.stream(0, monotonic_ns()))
        first_ms = (record.first_content_ns - record.started_ns) / 1e6 if record.first_content_ns else None
        whole_ms = (record.ended_ns - record.started_ns) / 1e6
        tell("record", outcome=record.outcome, reason=record.reason, first_ms=first_ms, whole_ms=whole_ms)


def tokenwire_open_loop(port: int, streams: int) -> None:
    """As many users as streams wait for arrivals."""
    with lane("sse", port) as sse:

        def user() -> None:
            start = carry_out(sse.arrival())
            carry_out(sse.stream(*start))

        users = [gevent.spawn(user) for _ in range(streams)]
        gevent.sleep(0)
        zero_ns = monotonic_ns()
        for ordinal, offset in enumerate(open_offsets("constant", RATE, streams / RATE, seed=1)):
            gevent.sleep(max(0.0, (zero_ns + offset - monotonic_ns()) / NS))
            sse.arrive(ordinal, zero_ns + offset)
        gevent.joinall(users, raise_error=True)


# Who gives users to workers.


def dispatch(even: bool, workers: int, users: int, fixed: int = 0) -> None:
    """How many users of each class each worker gets, with so many of a class whose number is fixed besides."""

    class Fixed(SSEUser):
        fixed_count = fixed

    kinds = [SSEUser, WebSocketUser, *([Fixed] if fixed else [])]
    nodes = [WorkerNode(f"host_{number}") for number in range(workers)]
    dispatcher = (EvenDispatcher if even else UsersDispatcher)(nodes, kinds)  # type: ignore[arg-type]
    dispatcher.new_dispatch(users, 1000)
    *_, last = dispatcher
    tell("dealt", users=list(last.values()))


CASES: dict[str, Callable[..., None]] = {
    "FastHttpUser.iter_lines": fast_iter_lines,
    "FastHttpUser": fast_whole,
    "HttpUser.iter_lines": http_iter_lines,
    "HttpUser": http_whole,
    "FastHttpUser.catch_response": lambda port: caught(FastHttpUser, port),
    "HttpUser.catch_response": lambda port: caught(HttpUser, port),
    "OpenAIUser": openai,
    "SocketIOUser": socketio,
    "websocket-client": websocket_measured,
    "throughput": throughput,
    "shape": shape,
    "open loop": open_loop,
    "percentiles": percentiles,
    "tokenwire, SSE": lambda port: tokenwire("sse", port),
    "tokenwire, WebSocket": lambda port: tokenwire("websocket", port),
    "tokenwire, open loop": tokenwire_open_loop,
    "dispatch": dispatch,
}


def main() -> None:
    global read
    sys.stdout = sys.stderr
    watch_reads()
    tell("there", version=locust.__version__)
    for line in sys.stdin:
        asked = json.loads(line)
        read = 0
        try:
            CASES[asked.pop("case")](**asked)
        except Exception as error:
            tell("over", raised=f"{type(error).__name__}: {error}")
        else:
            tell("over", raised=None)


if __name__ == "__main__":
    main()
