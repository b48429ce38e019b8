"""A network interface whose packets a program reads and writes: see Linux's Documentation/networking/tuntap.rst."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from bench.network import namespaces

MTU = 1500
QUEUE_PACKETS = 10_000
"""Packets that wait to be read. The default of 500 is a sender's whole window, dropped when the reader is late."""

NAME = "line"

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_UP = 0x1
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFDSTADDR = 0x8918
_SIOCSIFMTU = 0x8922
_SIOCSIFTXQLEN = 0x8943

SYSCTLS = (
    "tcp_congestion_control",
    "tcp_slow_start_after_idle",
    "tcp_no_metrics_save",
    "tcp_sack",
    "tcp_recovery",
    "tcp_early_retrans",
    "tcp_rmem",
    "tcp_wmem",
)
"""Settings of net.ipv4 that shape what is measured. None is changed."""


class Tun:
    """An interface in a network namespace of its own, up, with loopback; it goes when the descriptor is closed."""

    def __init__(self, address: str, peer: str) -> None:
        """Make the namespace, which this thread is in afterwards. Raises `OSError`."""
        self.address = address
        self.namespace = namespaces.new_network_namespace()
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, f"/dev/net/tun: {error.strerror}") from None
        # No IFF_VNET_HDR and no TUNSETOFFLOAD: the kernel cuts and checksums what it hands over.
        _ioctl(self.fd, _TUNSETIFF, NAME, struct.pack("H", _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _ioctl(control, _SIOCSIFADDR, NAME, _sockaddr(address))
            _ioctl(control, _SIOCSIFDSTADDR, NAME, _sockaddr(peer))
            _ioctl(control, _SIOCSIFMTU, NAME, struct.pack("i", MTU))
            _ioctl(control, _SIOCSIFTXQLEN, NAME, struct.pack("i", QUEUE_PACKETS))
            for name in ("lo", NAME):
                (flags,) = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name, b""), 16)
                _ioctl(control, _SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))

    def sysctls(self) -> dict[str, str]:
        """The TCP settings in force for sockets in the namespace; those that this kernel has."""
        found = {}
        with namespaces.inside(self.namespace):
            for name in SYSCTLS:
                try:
                    with open(f"/proc/sys/net/ipv4/{name}") as file:
                        found[name] = " ".join(file.read().split())
                except FileNotFoundError:
                    continue
        return found

    def unread(self) -> int:
        """Packets that the kernel dropped because they were not read in time."""
        with namespaces.inside(self.namespace), open("/proc/thread-self/net/dev") as file:
            for row in file:
                name, _, figures = row.partition(":")
                if name.strip() == NAME:
                    return int(figures.split()[11])  # the fourth of those about sending: drop
        raise OSError(0, f"{NAME}: no such interface")


def _ioctl(target: int | socket.socket, request: int, name: str, value: bytes) -> bytes:
    """Make a call about an interface: struct ifreq is a name of 16 bytes and a union of 24."""
    return fcntl.ioctl(target, request, struct.pack("16s24s", name.encode(), value))


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
