"""A finding: what one check saw, what it wants, and what to do about the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

Subject = TypeVar("Subject")


class Status(StrEnum):
    """What a finding means for results."""

    OK = "ok"
    ADVICE = "advice"
    """Results hold; they would be steadier, or the machine could carry more."""
    PROBLEM = "problem"
    """Results would be invalid."""
    UNKNOWN = "unknown"
    """It could not be read: nothing is said for or against the machine."""


class Seen(NamedTuple):
    """What a check says: its status, what it saw with units, and what to do (a sentence, and a command if any)."""

    status: Status
    seen: str
    advice: str = ""
    command: str = ""


UNREADABLE = Seen(Status.UNKNOWN, "not readable here")


class Check(NamedTuple, Generic[Subject]):
    """A row of a table of checks."""

    name: str
    wanted: str
    judge: Callable[[Subject], Seen]


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and what it said."""

    name: str
    status: Status
    seen: str
    wanted: str
    advice: str
    command: str


def findings(checks: Iterable[Check[Subject]], subject: Subject) -> list[Finding]:
    """Put every check to `subject`."""
    return [
        Finding(check.name, seen.status, seen.seen, check.wanted, seen.advice, seen.command)
        for check in checks
        for seen in (check.judge(subject),)
    ]


def ok(seen: str) -> Seen:
    """All is well."""
    return Seen(Status.OK, seen)
