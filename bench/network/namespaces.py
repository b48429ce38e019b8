"""Network namespaces without names: made by a process, entered by its siblings, gone with the last of them.

By ctypes, since Python 3.11 has neither unshare() nor setns(). Where this process may not make one, it first makes a
user namespace in which it may, with the same user and group, as `unshare --user --net` does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Looked up here, so that a child between fork and exec has nothing left to look up.
_setns_call = _libc.setns if _libc is not None else None


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags: int, what: str) -> None:
    if _libc is None:
        raise OSError(0, "network namespaces are a part of Linux")
    _checked(_libc.unshare(flags), what)


def _setns(fd: int, kind: int) -> None:
    assert _setns_call is not None
    _checked(_setns_call(fd, kind), "setns")


def die_with_parent(number: int) -> None:
    """Have this process sent a signal when its parent ends (Linux only). Entering a user namespace undoes it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)


def own_user_namespace() -> None:
    """Move this process into a user namespace of its own in which it may do everything, as the user it was.

    Raises `OSError` where that is not permitted. The process must have one thread.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWUSER, "unshare(CLONE_NEWUSER)")
    for file, text in (
        ("setgroups", "deny"),  # user_namespaces(7): or gid_map may not be written
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)


def new_network_namespace() -> int:
    """Move this thread into a new, empty network namespace and return a descriptor of it. Raises `OSError`."""
    _unshare(_CLONE_NEWNET, "unshare(CLONE_NEWNET)")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Be in a network namespace, and back afterwards; one that this process made or was in."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace, _CLONE_NEWNET)
        try:
            yield
        finally:
            _setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)


class Entrance:
    """A way into another process's namespace: call it in a child between fork and exec, as a `preexec_fn`.

    Files are opened when it is made; the call itself is one or two system calls and allocates next to nothing. It
    undoes PR_SET_PDEATHSIG, so whatever sets that comes after it.
    """

    def __init__(self, network: str, user: str | None) -> None:
        """Both are paths: of the network namespace, and of the user namespace that owns it, if it has one."""
        self._network = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        self._user = None if user is None else os.open(user, os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> None:
        """Move this process. Raises `OSError`."""
        if self._user is not None:
            _setns(self._user, _CLONE_NEWUSER)
        _setns(self._network, _CLONE_NEWNET)

    def close(self) -> None:
        """Let go of the namespace, which lives on while a process is in it."""
        os.close(self._network)
        if self._user is not None:
            os.close(self._user)
