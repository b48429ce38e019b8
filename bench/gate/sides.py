"""What is compared: two trees of the project, each with an environment from its own lock file, or two commands.

Trees are copies, made before anything is measured, so that nothing that is edited meanwhile gets in. Environments are
kept in a cache by lock file and Python: who has the same lock file as another has the same environment.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.gate.result import Side

LOCK = "requirements.lock"
RUNS = ("servers", "bench")
"""The packages of which something is measured."""
INSTALL_S = 900.0
KEPT_TREES = 20
"""Trees of earlier bases that stay in the cache."""


class SideError(Exception):
    """A side that cannot be had. One line for the user."""


class Built(NamedTuple):
    """A side ready to run."""

    side: Side
    tree: Path
    python: Path


def cache() -> Path:
    """The folder for environments and trees: $TOKENWIRE_CACHE, or `tokenwire` in the user's cache."""
    own = os.environ.get("TOKENWIRE_CACHE")
    if own:
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenwire"


def repository(where: Path) -> Path:
    """The top of the checkout that `where` is in. Raises `SideError` when it is in none, or in another project's."""
    top = Path(_git(where, "rev-parse", "--show-toplevel").strip())
    for needed in (*RUNS, LOCK):
        if not (top / needed).exists():
            raise SideError(
                f"{top}: no checkout of tokenwire ({needed} is missing); to gate servers of your own give --base-cmd "
                "and --head-cmd"
            )
    return top


@contextmanager
def trees(top: Path, ref: str, told: Callable[[str], None]) -> Iterator[tuple[Built, Built]]:
    """The base revision and the working tree, ready to run; head's copy is gone with the block. Raises `SideError`."""
    base = _base(top, ref)
    with _head(top) as head:
        # Not together: pip would wait for itself, and the first may well be all that is needed.
        yield _built(base, told), _built(head, told)


def same_program(base: Path, head: Path) -> bool:
    """Whether nothing that a gate measures differs: the code but for comments, other files, the lock."""
    return all(_contents(base / name) == _contents(head / name) for name in (*RUNS, LOCK, "scenarios"))


def _contents(path: Path) -> dict[str, str]:
    """Every file under a path, or the file itself, by its name from there: Python as its syntax tree, else a hash."""
    files = (
        sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
    )
    return {str(file.relative_to(path)): _content(file) for file in files}


def _content(file: Path) -> str:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return ""
    if file.suffix == ".py":
        try:
            return ast.dump(ast.parse(data))
        except (SyntaxError, ValueError):
            pass  # then it is its bytes that count
    return hashlib.sha256(data).hexdigest()


class _Tree(NamedTuple):
    side: Side
    path: Path


def _base(top: Path, ref: str) -> _Tree:
    """The tree of a revision, from the cache or made."""
    try:
        commit = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    except SideError:
        raise SideError(
            f"--base {ref}: no such revision here; give a branch, tag or commit that has been fetched, such as "
            "origin/main"
        ) from None
    folder = cache() / "trees"
    path = folder / commit
    if not path.is_dir():
        temporary = folder / f".{commit}.{os.getpid()}"
        try:
            _make_room(folder)
            temporary.mkdir(parents=True)
            with tarfile.open(fileobj=io.BytesIO(_git_bytes(top, "archive", "--format=tar", commit))) as archive:
                archive.extractall(temporary, filter="data")
            temporary.rename(path)
        except OSError as error:
            if not path.is_dir():  # else another gate was first
                raise SideError(f"{folder}: cannot hold a copy of {ref}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for needed in ("servers", LOCK):
        if not (path / needed).exists():
            raise SideError(f"--base {ref}: that revision has no {needed}, so it cannot be run; give a later one")
    return _Tree(Side("base", _subject(top, commit), revision=commit), path)


def _make_room(folder: Path) -> None:
    """Remove the trees that have not been used for longest."""
    known = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    for old in known[:-KEPT_TREES]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _head(top: Path) -> Iterator[_Tree]:
    """A copy of the working tree: what git has, and new files that it does not ignore."""
    commit = _git(top, "rev-parse", "HEAD").strip()
    changed = bool(_git(top, "status", "--porcelain", "--untracked-files=normal").strip())
    names = [
        name for name in _git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0") if name
    ]
    path = cache() / "trees" / f".head.{os.getpid()}"
    try:
        try:
            for name in dict.fromkeys(names):
                source, target = top / name, path / name
                # One that was deleted is still in the index; and a cache may lie in the checkout.
                if source.is_file() and not source.is_relative_to(cache()):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
        except OSError as error:
            raise SideError(f"{error.filename or path}: the working tree cannot be copied: {error.strerror}") from None
        what = f"working tree on {_subject(top, commit)}" if changed else _subject(top, commit)
        yield _Tree(Side("head", what, revision=commit, changed=changed), path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _subject(top: Path, commit: str) -> str:
    return _git(top, "log", "-1", "--format=%h %s", commit).strip()


def _built(tree: _Tree, told: Callable[[str], None]) -> Built:
    """A tree with its environment."""
    lock = (tree.path / LOCK).read_bytes()
    digest = hashlib.sha256(lock).hexdigest()
    version = f"{sys.implementation.cache_tag}-{sys.version.split()[0]}"
    folder = cache() / "environments" / f"{version}-{digest[:16]}"
    python = folder / "bin" / "python"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # two gates may want it at once
            if not (folder / ".complete").exists():
                told(f"installing what {tree.side.name}'s {LOCK} names, once for this lock file")
                _install(folder, tree.path / LOCK, tree.side.name)
                (folder / ".complete").touch()
    except OSError as error:
        raise SideError(f"{error.filename or folder}: no environment can be made there: {error.strerror}") from None
    side = Side(tree.side.name, tree.side.what, tree.side.revision, tree.side.changed, lock=digest)
    return Built(side, tree.path, python)


def _install(folder: Path, lock: Path, name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    base_python = getattr(sys, "_base_executable", sys.executable) or sys.executable
    steps = [
        [base_python, "-m", "venv", str(folder)],
        [
            *(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--require-hashes", "-r", str(lock)),
        ],
        [str(folder / "bin" / "python"), "-m", "compileall", "-q", str(folder / "lib")],
    ]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise SideError(
                f"{name}'s environment was not installed within {INSTALL_S:.0f} s: {' '.join(step)}"
            ) from None
        if done.returncode and step is not steps[-1]:  # a library may hold files for other Pythons
            words = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["it says nothing"]
            raise SideError(f"{name}'s environment cannot be made from its {LOCK}: {words[-1].strip()}")


def _git(where: Path, *arguments: str) -> str:
    return os.fsdecode(_git_bytes(where, *arguments))


def _git_bytes(where: Path, *arguments: str) -> bytes:
    """What git prints. Raises `SideError`."""
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, timeout=120)
    except FileNotFoundError:
        raise SideError("git: not found; --base needs it, --base-cmd and --head-cmd do not") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SideError(f"git {arguments[0]}: {error}") from None
    if done.returncode:
        words = os.fsdecode(done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise SideError(f"git {arguments[0]}: {words[0]}")
    return done.stdout
