"""Paths with real relays on them: the kernel's TCP through packets where that is permitted, and the proxy anywhere."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path as File
from random import Random
from typing import Any, NamedTuple

import pytest

from bench.network import between as between_module
from bench.network.between import By, NetworkError, Path, between, is_loopback, permitted
from bench.network.namespaces import Entrance
from bench.network.profiles import NETWORKS, Network

PEER = str(File(__file__).with_name("network_peer.py"))
SEGMENTS_IN = 152
"""Where struct tcp_info has how many segments with data came."""
NEVER_S = 20.0
"""Long enough to say that something does not happen at all."""

needs_packets = pytest.mark.skipif(bool(permitted()), reason=f"no line for packets here: {permitted()}")
RELAYED = [pytest.param("packets", marks=needs_packets), "proxy"]


@contextlib.contextmanager
def echo(path: Path) -> Iterator[int]:
    """A server at the far end of a path; its port."""
    process = subprocess.Popen(
        [sys.executable, PEER, "serve", path.server_host], stdout=subprocess.PIPE, preexec_fn=path.enter_server
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        try:
            yield int(stdout.readline())
        finally:
            process.kill()
            process.wait()


def ask(path: Path, what: str, port: int, times: int) -> dict[str, Any]:
    """What a client at the near end finds."""
    host, there = path.reach(path.server_host, port)
    command = [sys.executable, PEER, what, host, str(there), str(times)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, preexec_fn=path.enter_driver, check=True, timeout=2 * NEVER_S
    )
    return json.loads(done.stdout)


def until(true: Any) -> bool:
    deadline = time.monotonic() + NEVER_S
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in File(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Shared(NamedTuple):
    """A path that several tests use, and a server at its far end."""

    path: Path
    port: int

    @property
    def by_packets(self) -> bool:
        return self.path.kind == "packets"


@pytest.fixture(scope="module", params=RELAYED)
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    with between(Network(rtt_ms=10, jitter_ms=4), request.param, 1) as path, echo(path) as port:
        yield Shared(path, port)


def test_a_round_trip_takes_at_least_what_was_asked(shared: Shared) -> None:
    found = ask(shared.path, "ping", shared.port, 20)
    facts = shared.path.facts()
    assert min(found["trips"]) >= 10
    assert found["first"] >= 20, "one for the connection and one for the answer"
    if shared.by_packets:
        assert found["connect"] >= 10
    assert facts["kind"] == ("packets" if shared.by_packets else "modelled")
    assert facts["network"]["rtt_ms"] == 10
    assert min(facts["up"]["packets"], facts["down"]["packets"]) >= 20
    assert facts["late_us"]["max"] >= facts["late_us"]["p99"] - 1 >= facts["late_us"]["p50"] - 1 >= 0


def test_megabytes_come_through_both_ways_as_they_went(shared: Shared) -> None:
    before = shared.path.facts()
    assert ask(shared.path, "bulk", shared.port, 3_000_000)["same"]
    facts = shared.path.facts()
    for direction in ("up", "down"):
        assert facts[direction]["bytes"] - before[direction]["bytes"] > 3_000_000
        if shared.by_packets:
            assert facts[direction]["largest"] == facts["mtu"] == 1500
            assert facts[direction]["unread"] == 0


def test_many_connections_at_once(shared: Shared) -> None:
    assert ask(shared.path, "many", shared.port, 100) == {"right": 100}


def test_where_no_server_listens_a_client_is_told_a_round_trip_later(shared: Shared) -> None:
    with echo(shared.path) as port:
        pass
    found = ask(shared.path, "refused", port, 1)
    assert found["met"] == ("ConnectionRefusedError" if shared.by_packets else "ConnectionResetError")
    assert found["after"] >= 10


def test_servers_side_by_side_share_a_path(shared: Shared) -> None:
    with echo(shared.path) as other:
        for port in (shared.port, other):
            assert ask(shared.path, "many", port, 3) == {"right": 3}


@pytest.mark.parametrize("by", RELAYED)
def test_bandwidth_is_not_exceeded(by: By) -> None:
    with between(Network(rtt_ms=2, down_mbps=16, up_mbps=80), by, 1) as path, echo(path) as port:
        found = ask(path, "bulk", port, 300_000)
    assert found["same"]
    # Down at 16 Mbit/s, headers not counted.
    assert found["seconds"] >= 300_000 * 8 / 16e6


@pytest.mark.parametrize("by", RELAYED)
def test_losses_delay_bytes_and_cost_none(by: By) -> None:
    with between(Network(rtt_ms=2, loss=0.05), by, 11) as path, echo(path) as port:
        found = ask(path, "bulk", port, 300_000)
        facts = path.facts()
    assert found["same"]
    assert facts["up"]["lost"] > 0
    assert facts["down"]["lost"] > 0
    if by == "packets":
        assert found["retransmits"] > 0


@pytest.mark.parametrize("by", RELAYED)
def test_a_connection_outlives_a_cut(by: By) -> None:
    with between(Network(rtt_ms=5, cut_every_s=0.4, cut_ms=100), by, 1) as path, echo(path) as port:
        trips = ask(path, "ping", port, 200)["trips"]  # for a second at least, in which there are two cuts
        facts = path.facts()
    assert len(trips) == 200
    assert facts["up"]["cut"] + facts["down"]["cut"] > 0
    assert max(trips) >= 200, "no timer of TCP's is shorter"


@pytest.mark.parametrize("by", RELAYED)
def test_nothing_is_left_behind(by: By) -> None:
    before, descriptors = interfaces(), len(os.listdir("/proc/self/fd"))
    with between(Network(rtt_ms=1), by, 1) as path:
        pid = path.pid
        assert pid is not None
        assert not gone(pid)
        assert interfaces() == before
    assert gone(pid)
    assert interfaces() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("by", RELAYED)
def test_a_relay_that_is_killed_takes_everything_with_it_and_is_missed(by: By) -> None:
    before, descriptors = interfaces(), len(os.listdir("/proc/self/fd"))
    with between(Network(rtt_ms=1), by, 1) as path:
        assert path.pid is not None
        os.kill(path.pid, signal.SIGKILL)
        with pytest.raises(NetworkError, match="ended with exit code -9"):
            path.facts()
    assert interfaces() == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("kind", [pytest.param("packets", marks=needs_packets), "streams"])
@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "parent"])
def test_a_relay_ends_with_whoever_started_it(kind: str, how: str) -> None:
    # A parent that says the relay's pid, and is there until it is told to go.
    parent = (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-m', 'bench.network', {kind!r}]\n"
        "relay = subprocess.Popen(command, stdin=0, stdout=subprocess.PIPE)\n"
        "relay.stdout.readline(); print(relay.pid, flush=True); relay.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        if how == "stdin":
            process.stdin.close()
        elif how == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        else:
            process.kill()
        assert until(lambda: gone(pid))


@needs_packets
def test_a_line_for_packets_does_without_the_right_to_namespaces() -> None:
    """In a user namespace, which anyone may make on most systems; here without root's right to do otherwise."""
    pr_capbset_drop, cap_sys_admin = 24, 21
    prctl = ctypes.CDLL(None).prctl
    command = [sys.executable, "-m", "bench.network", "packets", "--network", '{"rtt_ms":4}']
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: prctl(pr_capbset_drop, cap_sys_admin),
    ) as relay:
        assert relay.stdout is not None
        assert relay.stderr is not None
        line = relay.stdout.readline()
        if not line:
            pytest.skip(f"no user namespaces here: {relay.stderr.read().decode().strip()}")
        ready = json.loads(line)
        assert ready["user_namespace"]
        path = Path(Network(rtt_ms=4), 1)
        path.server_host = ready["server"]["address"]
        with contextlib.ExitStack() as stack:
            path.enter_server, path.enter_driver = (
                Entrance(ready[side]["namespace"], ready["user_namespace"]) for side in ("server", "driver")
            )
            stack.callback(path.enter_server.close)
            stack.callback(path.enter_driver.close)
            port = stack.enter_context(echo(path))
            assert min(ask(path, "ping", port, 5)["trips"]) >= 4
        relay.stdin.close()  # type: ignore[union-attr]
        assert relay.wait(NEVER_S) == 0


@needs_packets
def test_tcp_settings_are_reported() -> None:
    with between(Network(rtt_ms=1), "packets", 1) as path:
        tcp = path.facts()["tcp"]
    assert tcp["driver"] == tcp["server"]
    assert tcp["driver"]["tcp_slow_start_after_idle"] in ("0", "1")
    assert tcp["driver"]["tcp_congestion_control"]


def test_plain_loopback_needs_no_relay() -> None:
    assert is_loopback(NETWORKS["loopback"])
    assert not any(is_loopback(network) for name, network in NETWORKS.items() if name != "loopback")
    with between(NETWORKS["loopback"], "auto", 1) as path:
        assert (path.kind, path.server_host) == ("none", "127.0.0.1")
        assert path.enter_server is path.enter_driver is path.pid is None
        assert path.reach("127.0.0.1", 80) == ("127.0.0.1", 80)
        assert path.facts()["kind"] == "none"
        with pytest.raises(NetworkError, match="only a proxy"):
            path.reach("127.0.0.1", 80, fragment=(1,))


def test_without_permission_auto_takes_the_proxy_and_packets_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_module, "permitted", lambda: "/dev/net/tun: Permission denied")
    with between(Network(rtt_ms=1), "auto", 1) as path:
        assert path.kind == "modelled"
    with (
        pytest.raises(NetworkError, match=r"tun: Permission denied; .* use by = 'proxy'") as error,
        between(Network(rtt_ms=1), "packets", 1),
    ):
        pass
    assert "\n" not in str(error.value)


def test_a_network_that_is_none_is_said_in_one_line() -> None:
    command = [sys.executable, "-m", "bench.network", "streams", "--network", '{"rtt_ms":-1}']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "rtt_ms" in done.stderr


@pytest.fixture(scope="module")
def proxy() -> Iterator[Path]:
    with between(Network(rtt_ms=6), "proxy", 1) as path:
        yield path
        assert not path._relay.last_words()  # type: ignore[attr-defined]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(NEVER_S)
        yield server


def pair(path: Path, listener: socket.socket, fragment: tuple[int, ...] = ()) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection through a proxy: the client's and the server's."""
    client = socket.create_connection(path.reach(*listener.getsockname(), fragment=fragment), NEVER_S)
    server, _ = listener.accept()
    server.settimeout(NEVER_S)
    return client, server


def segments_in(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return int.from_bytes(info[SEGMENTS_IN : SEGMENTS_IN + 4], sys.byteorder)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("who", ["client", "server"])
def test_the_proxy_passes_a_half_close_on_and_the_other_half_goes_on(
    proxy: Path, listener: socket.socket, who: str
) -> None:
    ends = pair(proxy, listener)
    one, other = ends if who == "client" else ends[::-1]
    with one, other:
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert other.recv(100) == b"question"
        assert other.recv(100) == b""
        other.sendall(b"answer")
        other.close()
        assert one.recv(100) == b"answer"
        assert one.recv(100) == b""


@pytest.mark.parametrize("who", ["client", "server"])
def test_the_proxy_passes_a_reset_on_after_what_came_before_it(proxy: Path, listener: socket.socket, who: str) -> None:
    ends = pair(proxy, listener)
    one, other = ends if who == "client" else ends[::-1]
    with other:
        one.sendall(b"last words")
        assert other.recv(100) == b"last words"
        start = time.monotonic()
        reset(one)
        with pytest.raises(ConnectionResetError):
            other.recv(100)
        assert time.monotonic() - start >= 0.003


def test_a_server_that_speaks_first_is_heard_after_two_round_trips(proxy: Path, listener: socket.socket) -> None:
    start = time.monotonic()
    client, server = pair(proxy, listener)
    with client, server:
        server.sendall(b"welcome")
        assert client.recv(100) == b"welcome"
    assert time.monotonic() - start >= 0.012


def test_the_proxy_holds_a_sender_back_when_nobody_reads(proxy: Path, listener: socket.socket) -> None:
    client, server = pair(proxy, listener)
    size = 64 << 20  # more than window and socket buffers together
    with client, server:
        server.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += server.send(bytes(1 << 16))
        assert sent < size, "it took everything"
        server.settimeout(NEVER_S)
        end = threading.Thread(target=server.shutdown, args=(socket.SHUT_WR,))
        end.start()
        came = 0
        while data := client.recv(1 << 16):
            came += len(data)
        end.join()
        assert came == sent


def test_connections_that_break_off_anywhere_leave_nothing_open(proxy: Path, listener: socket.socket) -> None:
    """Both ends send, stop, close and reset as chance has it; the proxy complains of nothing and closes them."""

    def behave(sock: socket.socket, chance: Random) -> None:
        sock.settimeout(1)
        with sock, contextlib.suppress(OSError):
            for _ in range(6):
                sock.sendall(bytes(chance.randrange(1, 100_000)))
                sock.recv(chance.randrange(1, 100_000))
                match chance.randrange(8):
                    case 0:
                        return reset(sock)
                    case 1:
                        sock.shutdown(socket.SHUT_WR)
                    case 2:
                        return None
        return None

    descriptors = File(f"/proc/{proxy.pid}/fd")
    there = proxy.reach(*listener.getsockname())
    before = len(list(descriptors.iterdir()))
    threads = []
    for number in range(30):
        ends = socket.create_connection(there, NEVER_S), listener.accept()[0]
        threads += [threading.Thread(target=behave, args=(end, Random(f"{number} {end is ends[0]}"))) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert until(lambda: len(list(descriptors.iterdir())) <= before)


def test_bytes_one_by_one(proxy: Path, listener: socket.socket) -> None:
    client, server = pair(proxy, listener, fragment=(1,))
    with client, server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.sendall(bytes(range(100)))
        server.close()
        reads = []
        while data := client.recv(1000):
            reads.append(data)
        segments = segments_in(client)
    assert b"".join(reads) == bytes(range(100))
    assert segments == 100, "each byte came in a segment of its own"


def test_a_stream_is_cut_in_two_at_every_place(proxy: Path, listener: socket.socket) -> None:
    message = b"data: 1\r\n\r\n"
    for place in range(1, len(message)):
        client, server = pair(proxy, listener, fragment=(place, 1000))
        with client, server:
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            came = b""
            while data := server.recv(1000):
                came += data
            segments = segments_in(server)
        assert came == message
        assert segments == 2
