"""gate.md: for a comment on a pull request and for GitHub's job summary."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.gate.outputs.figures import (
    chart,
    counted_as,
    effect,
    headline,
    interval,
    label,
    plain,
    smallest,
    tally,
    values,
)
from bench.gate.result import Gate, Row, Side
from bench.report.numbers import count, number

MARKER = "<!-- tokenwire-gate -->"
"""The first line, by which a workflow finds its own comment to bring it up to date."""
LIMIT = 65_536
"""Of a comment on GitHub, in characters; kept in bytes of UTF-8, which are never fewer."""
_SENTENCE = 400
_CELL = 120
_FEW = 6
_COMMAND = 1000
_NOTHING = "\u200b"
"""Of no width: behind an @ or # it makes no mention and no link of what follows."""


class _Most(NamedTuple):
    """How many rows are shown at most: of advice, and of what decides."""

    advice: int
    deciding: int


_TRIES = [_Most(a, d) for a, d in ((10_000, 10_000), (100, 10_000), (30, 10_000), (10, 10_000))]
_TRIES += [_Most(0, d) for d in (10_000, 100, 30, 5)]


def render(gate: Gate) -> str:
    """The gate as GitHub-flavoured Markdown; where it is too long for a comment, advice goes first, and says so."""
    for most in _TRIES:
        text = "\n".join(_lines(gate, most)) + "\n"
        if len(text.encode()) <= LIMIT:
            break
    return text


def _lines(gate: Gate, most: _Most) -> Iterator[str]:
    yield from (MARKER, f"### {_escaped(headline(gate))}", "")
    rest = [*gate.reasons[1:], *filter(None, [counted_as(gate)])]
    if gate.decision == "invalid":
        yield from [*_items(rest), "Nothing is judged. What was measured nonetheless is in gate.json.", ""]
    else:
        yield from _items(rest)
        yield from (f"{_escaped(tally(gate.rows))}.", "")
        yield from _rows(gate, most)
    yield from _about(gate)


def _rows(gate: Gate, most: _Most) -> Iterator[str]:
    deciding = [row for row in gate.rows if row.decides]
    drawn = [row for row in deciding if row.kind != "count"]
    if drawn:
        yield from _table(drawn, most.deciding)
        yield from (
            "<sub>Effect: head against base, with its 95 % interval. Chart: that interval from −2 to +2 times the "
            "smallest effect that counts (┊); right of │ is worse.</sub>",
            "",
        )
    counts = [row for row in deciding if row.kind == "count"]
    apart = [row for row in counts if row.finding != "same"]
    alike = [row for row in counts if row.finding == "same"]
    if apart:
        yield from ("**Exact counts that differ**", "", *_counts(apart, most.deciding))
    if alike:
        yield from _folded(f"{count(len(alike), 'exact count')} not worse", _counts(alike, most.deciding))
    advice = [row for row in gate.rows if not row.decides]
    for title, rows in (
        ("Advice, which does not decide", [row for row in advice if row.kind != "micro"]),
        ("Micro-benchmarks, which do not decide", [row for row in advice if row.kind == "micro"]),
    ):
        worse = sum(row.finding == "regression" for row in rows)
        if rows:
            told = f"{title}: {count(len(rows), 'measure')}, {worse or 'none'} worse"
            yield from _folded(told, [*_table(rows, most.advice)])


def _table(rows: Sequence[Row], most: int) -> Iterator[str]:
    if rows[:most]:
        yield "| Measure | Base | Head | Effect | Counts from | better · worse | Finding |"
        yield "|---|---:|---:|---:|---:|:---:|---|"
    for row in rows[:most]:
        between, drawing = interval(row), chart(row)
        base, head = _values(row)
        reach = f"<br><sub>{_kept(between)}</sub>" if between else ""
        shown = f"`{drawing}`" if drawing else ""
        yield (
            f"| {_named(row)} | {base} | {head} | {_kept(effect(row))}{reach} | {_kept(smallest(row))} | {shown} "
            f"| {_found(row)} |"
        )
    yield from _left_out(rows, most)


def _counts(rows: Sequence[Row], most: int) -> list[str]:
    lines = ["| Count | Base | Head | Difference | Finding |", "|---|---:|---:|---:|---|"] if rows[:most] else []
    for row in rows[:most]:
        base, head = _values(row)
        lines.append(f"| {_named(row)} | {base} | {head} | {_kept(effect(row))} | {_found(row)} |")
    return [*lines, *_left_out(rows, most)]


def _left_out(rows: Sequence[Row], most: int) -> Iterator[str]:
    yield ""
    if len(rows) > most:
        yield from (f"{count(len(rows) - most, 'more row')} left out here for length: see gate.json.", "")


def _named(row: Row) -> str:
    place = ", ".join(part for part in (row.where, row.arm) if part)
    return f"{_cell(row.title)}<br><sub>{_cell(place)}</sub>" if place else _cell(row.title)


def _values(row: Row) -> tuple[str, str]:
    base, head = (_kept(f"{value} {_cell(row.unit)}".strip()) for value in values(row))
    return base, head


def _found(row: Row) -> str:
    return f"**{label(row)}**" if row.finding in ("regression", "inconclusive") else label(row)


def _about(gate: Gate) -> Iterator[str]:
    yield f"- **Base:** {_side(gate.base)}"
    yield f"- **Head:** {_side(gate.head)}"
    apart = [
        f"{name} {gate.base.versions.get(name, 'none')} → {gate.head.versions.get(name, 'none')}"
        for name in sorted({*gate.base.versions, *gate.head.versions})
        if gate.base.versions.get(name) != gate.head.versions.get(name)
    ]
    if apart:
        yield f"- **Other versions:** {_escaped(', '.join(apart))}"
    runs = ", with a second run to confirm" if len(gate.runs) > 1 else ""
    void = f", {number(len(gate.voids), 0)} void" if gate.voids else ""
    yield f"- **Blocks:** {number(gate.blocks, 0)} valid{void}{runs}; size {_escaped(gate.size)}, {_took(gate.seconds)}"
    yield f"- **Machine:** {_escaped(_machine(gate))}; tokenwire {_escaped(gate.tokenwire)}"
    yield from _items(gate.notes)
    yield ""
    if gate.voids:
        yield from _folded(f"Why {count(len(gate.voids), 'block')} did not count", [*_items(gate.voids)])
    again = _command(gate)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", again)), default=0))
    yield from ("Again:", "", fence, again, fence)


def _side(side: Side) -> str:
    changed = ", with changes that are in no commit" if side.changed else ""
    known = f" ({side.revision[:12]})" if side.revision and side.revision[:7] not in side.what else ""
    return _escaped(f"{side.what}{known}{changed}")


def _machine(gate: Gate) -> str:
    machine = gate.machine
    memory = machine.get("memory_bytes")
    parts = [
        machine.get("cpu"),
        count(machine["cores"], "core") if isinstance(machine.get("cores"), int) else None,
        f"{memory / 2**30:.0f} GiB" if isinstance(memory, int) else None,
        " ".join(str(machine[key]) for key in ("os", "kernel") if machine.get(key)),
        machine.get("python"),
    ]
    return ", ".join(str(part) for part in parts if part) or "not known"


def _took(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _command(gate: Gate) -> str:
    words = ["tokenwire", "gate"]
    words += ["--base-cmd", gate.base.command] if gate.base.command else ["--base", gate.base.revision[:12]]
    words += ["--head-cmd", gate.head.command] if gate.head.command else []
    words += ["--size", gate.size, *gate.options]
    return plain(shlex.join(words), _COMMAND)


def _items(sentences: Sequence[str]) -> Iterator[str]:
    # At the start of an item a sign or a number would begin a list or a heading.
    begins = re.compile(r"^(?=[-+=])|^(\d+)(?=[.)])")
    yield from ("- " + begins.sub(r"\1\\", _escaped(sentence)) for sentence in sentences[:_FEW])
    if len(sentences) > _FEW:
        yield f"- {number(len(sentences) - _FEW, 0)} more in gate.json"
    if sentences:
        yield ""


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "</details>", ""]


def _kept(text: str) -> str:
    """Not broken between a number and its unit."""
    return text.replace(" ", "\u00a0")


def _cell(text: str) -> str:
    return _escaped(text, _CELL)


def _escaped(text: str, most: int = _SENTENCE) -> str:
    """Text of anyone's as itself: no markup, no mention of a person, no link to an issue or page."""
    kept = re.sub(r"([\\`*_{}\[\]<>|~$&#!])", r"\\\1", plain(text, most))
    return re.sub(r"@|#(?=\d)|\bGH-(?=\d)|:(?=//)|\bwww(?=\.)", rf"\g<0>{_NOTHING}", kept)
