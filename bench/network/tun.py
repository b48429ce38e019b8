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
_SIOCSIFADDR = 0x8916
_SIOCSIFDSTADDR = 0x8918

_IFF_UP = 0x1
_RTM_NEWLINK = 16
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2
_IFLA_MTU = 4
_IFLA_TXQLEN = 13

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
        _bring_up("lo")
        _bring_up(NAME, struct.pack("HHIHHI", 8, _IFLA_MTU, MTU, 8, _IFLA_TXQLEN, QUEUE_PACKETS))

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


def _bring_up(name: str, attributes: bytes = b"") -> None:
    """Set an interface up, by rtnetlink(7): the ioctl for the queue's length asks for rights on the whole machine."""
    body = struct.pack("BxHiII", 0, 0, socket.if_nametoindex(name), _IFF_UP, _IFF_UP) + attributes
    header = struct.pack("IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.sendall(header + body)
        _, kind, _, _, _, code = struct.unpack_from("IHHIIi", netlink.recv(4096))
    if kind != _NLMSG_ERROR or code:
        raise OSError(-code, f"interface {name}: {os.strerror(-code)}")
