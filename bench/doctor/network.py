"""TCP as the system has it set: what a burst of new connections meets, and what kept ones meet."""

from __future__ import annotations

from collections.abc import Callable

from bench.doctor.finding import UNREADABLE, Check, Seen, Status, ok
from bench.doctor.machine import Machine

BACKLOG = 4096
"""Connections that a server asks the kernel to hold: `servers.stacks.BACKLOG`, which a test compares with this."""
TIME_WAIT_S = 60
"""How long Linux keeps a closed connection, and with it its port (TCP_TIMEWAIT_LEN)."""
COLD_PER_S = 900
"""Cold connections per second that the range 10240 to 65535 carries without reuse, 921, rounded down."""
BUFFER = 1 << 20
"""Bytes; kernels have 4 MiB or more unless someone changed it."""
FAR = "Of no account on loopback. Between machines,"


def path_of(setting: str) -> str:
    """The file of a sysctl."""
    return "/proc/sys/" + setting.replace(".", "/")


def _set(setting: str, value: str) -> str:
    return f"sudo sysctl -w {setting}={value}"


def _ports(machine: Machine) -> Seen:
    span = machine.numbers(path_of("net.ipv4.ip_local_port_range"))
    if span is None or len(span) != 2:
        return UNREADABLE
    ports = span[1] - span[0] + 1
    rate = ports // TIME_WAIT_S
    seen = f"{ports:,} ports: {rate:,} connections/s"
    # Without timestamps the kernel cannot tell old segments from new ones, and reuses no port.
    if machine.number(path_of("net.ipv4.tcp_tw_reuse")) and machine.number(path_of("net.ipv4.tcp_timestamps")) != 0:
        return ok(f"{seen}, more on loopback (tcp_tw_reuse)")
    if rate >= COLD_PER_S:
        return ok(seen)
    advice = (
        f"A closed connection keeps its port for {TIME_WAIT_S} s: faster cold loads run out of ports. Widen the range:"
    )
    return Seen(Status.ADVICE, seen, advice, _set("net.ipv4.ip_local_port_range", '"10240 65535"'))


def _syn_backlog(machine: Machine) -> Seen:
    backlog = machine.number(path_of("net.ipv4.tcp_max_syn_backlog"))
    cookies = machine.number(path_of("net.ipv4.tcp_syncookies"))
    if backlog is None:
        return UNREADABLE
    if backlog >= BACKLOG:
        return ok(f"{backlog:,}")
    if cookies:
        return ok(f"{backlog:,}, with SYN cookies")
    advice = "Without SYN cookies the kernel drops a burst of new clients beyond this, and they wait a second to retry:"
    return Seen(Status.ADVICE, f"{backlog:,}", advice, _set("net.ipv4.tcp_max_syn_backlog", str(BACKLOG)))


def _setting(setting: str, good: Callable[[int], bool], value: int, advice: str) -> Callable[[Machine], Seen]:
    """A check of one number."""

    def judge(machine: Machine) -> Seen:
        number = machine.number(path_of(setting))
        if number is None:
            return UNREADABLE
        return (
            ok(f"{number:,}") if good(number) else Seen(Status.ADVICE, f"{number:,}", advice, _set(setting, str(value)))
        )

    return judge


def _buffer(setting: str, usual: str) -> Callable[[Machine], Seen]:
    """A check of the highest of three sizes: least, initial, most."""

    def judge(machine: Machine) -> Seen:
        sizes = machine.numbers(path_of(setting))
        if sizes is None or len(sizes) != 3:
            return UNREADABLE
        seen = f"{sizes[2] // 1024:,} KiB"
        if sizes[2] >= BUFFER:
            return ok(seen)
        advice = "A server that writes without pauses waits for its reader earlier than elsewhere. As kernels have it:"
        return Seen(Status.ADVICE, seen, advice, _set(setting, f'"{usual}"'))

    return judge


def _mtu(machine: Machine) -> Seen:
    mtu = machine.number("/sys/class/net/lo/mtu")
    if mtu is None:
        return UNREADABLE
    if mtu >= 65_536:
        return ok(f"{mtu:,} bytes")
    advice = "Large writes are cut into more packets than on other machines:"
    return Seen(Status.ADVICE, f"{mtu:,} bytes", advice, "sudo ip link set lo mtu 65536")


CHECKS: tuple[Check[Machine], ...] = (
    Check("ephemeral ports", f"{COLD_PER_S} connections/s, or reuse", _ports),
    Check(
        "listen backlog",
        f"{BACKLOG:,} or more",
        _setting(
            "net.core.somaxconn",
            lambda value: value >= BACKLOG,
            BACKLOG,
            "A burst of new clients beyond this waits a second to retry, which no protocol is to blame for:",
        ),
    ),
    Check("SYN backlog", f"{BACKLOG:,}, or SYN cookies", _syn_backlog),
    Check(
        "TCP timestamps",
        "1 or 2",
        _setting("net.ipv4.tcp_timestamps", bool, 1, "Ports of closed connections are not reused without them:"),
    ),
    Check(
        "autocorking",
        "0 between machines",
        _setting(
            "net.ipv4.tcp_autocorking",
            lambda value: value == 0,
            0,
            f"{FAR} a token may wait for the packet before it to leave:",
        ),
    ),
    Check(
        "slow start after idle",
        "0 between machines",
        _setting(
            "net.ipv4.tcp_slow_start_after_idle",
            lambda value: value == 0,
            0,
            f"{FAR} a kept connection that was idle starts slowly again:",
        ),
    ),
    Check("receive buffer", "1,024 KiB or more", _buffer("net.ipv4.tcp_rmem", "4096 131072 6291456")),
    Check("send buffer", "1,024 KiB or more", _buffer("net.ipv4.tcp_wmem", "4096 16384 4194304")),
    Check("loopback MTU", "65,536 bytes", _mtu),
)
