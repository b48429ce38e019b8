"""Can the instrument be trusted: invalid runs, blocks that do not count, and what every rule saw at worst."""

from __future__ import annotations

from collections.abc import Iterator

from bench.metrics import Check, Summary
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, listed, number

_SHOWN = 3
"""Voided blocks whose reasons are told at once; the table has all."""


def invalid(summary: Summary) -> str | None:
    """What an invalid run's report opens with; None for any other."""
    if summary.state != "invalid":
        return None
    return f"This run is invalid: {_voided(summary)}, so no verdict should be trusted, and none is shown."


def _voided(summary: Summary) -> str:
    voided = sum(v.why == "validity" for v in summary.voids)
    if not voided:
        return "the instrument failed"
    whole = summary.blocks_whole or (summary.conclusions.blocks if summary.conclusions else 0)
    verb = "was" if voided == 1 else "were"
    return f"{voided} of {count(voided + whole, 'block')} {verb} voided because the instrument failed"


def validity(summary: Summary) -> Iterator[Finding]:
    """Blocks that do not count: those that the instrument spoilt with their reasons, interrupted ones in passing."""
    voided = [v for v in summary.voids if v.why == "validity"]
    if voided and summary.state != "invalid":
        yield Finding(f"{_voided(summary)}, not a server; {'it does' if len(voided) == 1 else 'they do'} not count.")
    said: set[str] = set()
    for void in voided[:_SHOWN]:
        yield Finding(f"Block {void.block}: {_once(_sentences(void.reasons), said)}")
    if len(voided) > _SHOWN:
        more = len(voided) - _SHOWN
        reasons = "The reason of one more is" if more == 1 else f"The reasons of {more} more are"
        yield Finding(f"{reasons} under “Can the instrument be trusted?”.")
    stopped = [str(v.block) for v in summary.voids if v.why == "interrupted"]
    if stopped:
        which = f"Block {stopped[0]} was" if len(stopped) == 1 else f"Blocks {listed(stopped)} were"
        yield Finding(
            f"{which} interrupted before all arms had run and {'does' if len(stopped) == 1 else 'do'} not count."
        )


def _once(text: str, said: set[str]) -> str:
    """The text without the advice that was said before: sentences without a figure that are in `said`, which grows."""
    kept = []
    for sentence in text.removesuffix(".").split(". "):
        if sentence not in said or any(c.isdigit() for c in sentence):
            kept.append(f"{sentence}.")
        said.add(sentence)
    return " ".join(kept) or text


def _sentences(reasons: list[str]) -> str:
    return " ".join(f"{r.strip().rstrip('.')}." for r in reasons if r.strip()) or "no reason was recorded."


def results(summary: Summary) -> Iterator[Finding]:
    """What servers could not do, which is a result; and what explains a figure without voiding it."""
    labels = {a.name: a.label for a in summary.arms}
    for over in summary.over_capacity:
        trials = f"{over.trials} of {count(over.of_trials, 'trial')}"
        _, text = _placed(summary, over.text)
        yield Finding(f"{labels[over.arm]} was over capacity in {trials}. {text}", lead=f"Phase {over.phase}")
    for caution in summary.cautions:
        place, text = _placed(summary, caution)
        yield Finding(text, lead=f"Caution{place}")


def _placed(summary: Summary, text: str) -> tuple[str, str]:
    """A text that begins with phase and arm by their names as its place, for people, and the rest as a sentence."""
    place = ""
    for phase in summary.phases:
        for arm in summary.arms:
            begin = f"{phase.name}, {arm.name}: "
            if text.startswith(begin):
                place, text = f", phase {phase.name}, {arm.label}", text.removeprefix(begin)
    return place, _sentences([text[:1].upper() + text[1:]])


def rules_grid(summary: Summary) -> Grid | None:
    """Every validity rule with the worst it saw against its limit; None where nothing was judged."""
    if not summary.checks:
        return None
    labels = {a.name: a.label for a in summary.arms}
    rows = [
        [
            check.title,
            check.phase or "whole trial",
            _measured(check, check.seen),
            f"{check.limit:g} {check.unit}".strip(),
            f"{labels.get(check.arm, check.arm)}, block {check.block}",
            f"beyond it in {count(check.trials_over, 'trial')}" if check.trials_over else "kept",
        ]
        for check in summary.checks
    ]
    return Grid(
        "What would void a block: the worst seen in any trial, against its limit",
        ["Rule", "Phase", "Worst seen", "Limit", "Where", "Outcome"],
        rows,
    )


def _measured(check: Check, value: float) -> str:
    whole = not check.unit and value == int(value)
    return f"{number(value, 0 if whole else None)} {check.unit}".strip()


def voids_grid(summary: Summary) -> Grid | None:
    """The blocks that do not count, with every reason; None where all count."""
    if not summary.voids:
        return None
    why = {"validity": "instrument failed", "interrupted": "interrupted"}
    rows = [[str(v.block), why[v.why], _sentences(v.reasons) if v.reasons else "–"] for v in summary.voids]
    return Grid("Blocks that do not count", ["Block", "Why", "What was seen"], rows)
