"""Streams that break off: how they come back, and exactly what was lost. See `bench.metrics.recovery`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from bench.metrics import Phase, Summary
from bench.metrics.recovery import Recovery
from bench.report.charts import recovery as charts
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, listed, number
from bench.report.sections.section import Section
from bench.report.sections.words import NONE, label, ordered, ranged
from bench.scenario import Restart, Retry

_AMISS = {
    "lost": "lost {n}",
    "repeated": "repeated {n}",
    "reordered": "delivered {n} out of order",
    "corrupted": "altered {n}",
}


def make(summary: Summary) -> Section | None:
    """The section, or None where no stream broke off in a phase in which that was to happen, or was provided for."""
    by_phase = {
        phase.name: (phase, own)
        for phase in summary.phases
        if (own := [r for r in ordered(summary, summary.recoveries) if r.phase == phase.name])
    }
    if not by_phase:
        return None
    return Section(
        "When streams break off",
        "Measured apart, at the client: from the break (when the server cut the stream, fell silent or died) until the "
        "client noticed; from there to a connection again, waits and tries in vain included; from there to the first "
        "new token, one that it did not have yet. Medians over trials of each trial’s median, so that parts need not "
        "add up to the whole, with the lowest and the highest trial; counts are exact, text by text.",
        [finding for phase, own in by_phase.values() for finding in _findings(summary, phase, own)],
        [_grid(summary, phase, own) for phase, own in by_phase.values()],
        [chart for phase, own in by_phase.values() for chart in charts.make(summary, phase, own)],
    )


def _findings(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> Iterator[Finding]:
    lead = f"Phase {phase.name}"
    yield Finding(f"{_trouble(phase)}Clients {_policy(phase)}. {_fates(summary, phase, own)}", lead=lead)
    times = [f"{label(summary, r.arm)} {_times(r)}" for r in own if r.p50_ms]
    if times:
        yield Finding("; ".join(times) + ".", lead=f"{lead}, from the break to a new token (median)")
    for r in own:
        if r.never_finished:
            yield Finding(
                f"{label(summary, r.arm)}: {r.never_finished} of {count(r.interrupted, 'stream')} that broke off never "
                f"finished, and {_chunks(phase, r.missing)} of theirs never came.",
                grave=True,
                lead=lead,
            )
        amiss = [told.format(n=_chunks(phase, n)) for key, told in _AMISS.items() if (n := getattr(r, key))]
        if amiss:
            yield Finding(f"{label(summary, r.arm)} {listed(amiss)}.", grave=True, lead=lead)


def _trouble(phase: Phase) -> str:
    if not phase.settings.get("restart"):
        return ""
    restart = msgspec.convert(phase.settings["restart"], Restart)
    told = "is killed" if restart.signal == "kill" else "is told to stop"
    return f"The server {told} after {restart.after_s:g} s, and another listens {restart.down_s:g} s later at least. "


def _policy(phase: Phase) -> str:
    """`ask for the rest 100 ms after a break, then wait 2 times as long ...`."""
    if not phase.settings.get("retry"):
        return "do not ask again"
    retry = msgspec.convert(phase.settings["retry"], Retry)
    what = "ask for the rest" if retry.resume else "start again from the beginning"
    text = f"{what} {retry.delay_ms:g} ms after a break"
    further = [f"wait {retry.backoff:g} times as long before each further try"] if retry.backoff > 1 else []
    further.append(f"give up after {count(retry.tries, 'try', 'tries')} without a new token")
    if retry.jitter:
        text += f" (or up to {100 * retry.jitter:g} % sooner, at random)"
    return f"{text}, {' and '.join(further)}"


def _fates(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> str:
    """How many broke off and came back, in one sentence where arms are alike, else arm by arm."""
    told = {r.arm: _fate(phase, r) for r in own}
    if len(set(told.values())) == 1 and len(own) > 1:
        text = f"On every arm {told[own[0].arm]}."
    else:
        text = " ".join(f"{label(summary, arm)}: {fate}." for arm, fate in told.items())
    again = [f"{_chunks(phase, r.made_again)} for {label(summary, r.arm)}" for r in own if r.made_again]
    return text + (f" Made again, though the client had them: {listed(again)}." if again else "")


def _fate(phase: Phase, r: Recovery) -> str:
    often = f" ({count(r.breaks, 'time')} in all)" if r.breaks != r.interrupted else ""
    text = f"{r.interrupted} of {count(r.streams, 'stream')} broke off{often}"
    finished = r.interrupted - r.never_finished
    text += f"; {'all' if not r.never_finished else finished or 'none'} of them finished"
    if not (r.lost or r.repeated or r.reordered or r.corrupted or r.missing):
        text += ", and nothing was lost, repeated, out of order or altered"
    if r.in_flight and not r.lost:
        text += f"; {_chunks(phase, r.in_flight)} on the way at a break did not arrive, and did when asked for again"
    return text


def _times(r: Recovery) -> str:
    """`24.5 ms: noticed after 0.386, connected again after 20.5 (20.0 of it waiting as told), ...`; medians only."""
    middle = {key: number(figure.median) for key, figure in r.p50_ms.items()}
    parts = []
    if "notice" in middle:
        parts.append(f"noticed after {middle['notice']}")
    if "reconnect" in middle:
        waited = f" ({number(r.waited_p50_ms.median)} of it waiting as told)" if r.waited_p50_ms else ""
        parts.append(f"connected again {middle['reconnect']} later{waited}")
    if "renew" in middle:
        parts.append(f"a new token {middle['renew']} after that")
    return (f"{middle['outage']} ms: " if "outage" in middle else "in ms: ") + ", ".join(parts)


def _chunks(phase: Phase, n: int) -> str:
    return count(n, "token") if phase.profile.get("bundle", 1) == 1 else f"{count(n, 'chunk')} of content"


def _grid(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> Grid:
    """Arms as columns: what broke off, how long each part took, what was lost."""
    one = "Tokens" if phase.profile.get("bundle", 1) == 1 else "Chunks"
    rows: list[tuple[str, Callable[[Recovery], str]]] = [
        ("Streams that broke off", lambda r: f"{number(r.interrupted, 0)} of {number(r.streams, 0)}"),
        (
            "Breaks, as the client saw them",
            lambda r: listed([f"{n} {why.replace('_', ' ')}" for why, n in r.reasons.items()]),
        ),
        ("Until noticed", lambda r: ranged(r.p50_ms.get("notice"), "ms")),
        ("Then until connected again", lambda r: ranged(r.p50_ms.get("reconnect"), "ms")),
        ("of it waiting as told", lambda r: ranged(r.waited_p50_ms, "ms")),
        ("Then until the first new token", lambda r: ranged(r.p50_ms.get("renew"), "ms")),
        ("In all", lambda r: ranged(r.p50_ms.get("outage"), "ms")),
        ("Tries for each break", lambda r: number(r.tries / r.breaks, 2)),
        (f"{one} that did not arrive before a break", lambda r: number(r.in_flight, 0)),
        (f"{one} lost for good", lambda r: number(r.lost, 0)),
        (f"{one} repeated", lambda r: number(r.repeated, 0)),
        (f"{one} out of order", lambda r: number(r.reordered, 0)),
        (f"{one} altered", lambda r: number(r.corrupted, 0)),
        (f"{one} made again, by starting again", lambda r: number(r.made_again, 0)),
        ("Streams that never finished", lambda r: number(r.never_finished, 0)),
        (f"{one} that these never received", lambda r: number(r.missing, 0)),
    ]
    by_arm = {r.arm: r for r in own}
    arms = [a for a in summary.arms if a.trials]
    return Grid(
        f"Phase {phase.name}: times are medians (lowest to highest trial), counts exact, over all trials",
        ["", *(a.label for a in arms)],
        [[title, *(cell(by_arm[a.name]) if a.name in by_arm else NONE for a in arms)] for title, cell in rows],
    )
