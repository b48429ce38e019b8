"""Records of a run -> `Summary`: percentiles within each trial, medians and ranges over trials, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import msgspec
import numpy as np
import pandas as pd

from bench import validity
from bench.measures import FEWEST_BEYOND, MEASURES, Measure, fraction
from bench.metrics.cautions import Caution, cautions_of, merge, over_capacity
from bench.metrics.crowd import Holdings
from bench.metrics.leaving import LEFT, Leavings, left, lost_by_leavers
from bench.metrics.opening import Openings
from bench.metrics.outages import outages
from bench.metrics.recovery import Recoveries
from bench.metrics.seen import Seen
from bench.metrics.shapes import Group, Shapes
from bench.metrics.slow import SlowReadings
from bench.metrics.summary import (
    Account,
    Arm,
    Ceiling,
    Incident,
    MeasureInfo,
    Phase,
    Summary,
    Unfinished,
    Value,
    Void,
    WireBytes,
)
from bench.metrics.trial import Floats, chunks_of, floats, streams_of
from bench.metrics.trust import behind, checks, whole_blocks
from bench.metrics.windows import stream_costs, window_measures

if TYPE_CHECKING:
    from bench.record import Run, Trial

Temperature = Literal["cold", "warm", "all"]
_DEFECTS = ("lost", "repeated", "reordered", "corrupted")
_ENDED_BY_CLIENT = ("timed_out", "cancelled", LEFT)
"""What the server had handed over when the client left is not lost: nobody was there to receive it."""
_BYTES = ("received_bytes", "head_bytes", "payload_bytes", "content_bytes", "text_bytes")
_CEILING_OF = ("throughput", "cpu_server", "capacity")


class _Key(NamedTuple):
    phase: str
    arm: str
    temperature: Temperature
    users: int
    measure: str
    statistic: str


class _Found(NamedTuple):
    block: int
    value: float
    samples: int
    slices: Sequence[float] = ()


def summarize(run: Run) -> Summary:
    """Summarize a run, holding one trial in memory at a time. Raises `Unfinished` when it has no finished trial.

    A trial whose data turn out to be unreadable is left out, with a warning.
    """
    if not run.trials:
        raise Unfinished(f"{run.path}: no finished trial, so there is nothing to report")
    valid = [trial for trial in run.trials if trial.facts["block"] not in run.void]
    # Without a single valid block what was seen is shown all the same, under a heading that says so.
    trials = sorted(valid or run.trials, key=lambda t: (t.facts["block"], t.facts["trial"]))
    reduction = _Reduction(run.info["scenario"])
    whole = [trial for trial in trials if reduction.add(trial)]
    if not whole:
        raise Unfinished(f"{run.path}: no trial can be read, so there is nothing to report; {reduction.warnings[0]}")
    return reduction.summary(run, whole)


def values_of(trial: Trial, scenario: dict[str, Any]) -> list[Value]:
    """The figures of one trial, each with that trial alone; none when it cannot be read."""
    reduction = _Reduction(scenario)
    reduction.add(trial)
    return [_value(key, found, None) for key, found in reduction.found.items()]


class _Reduction:
    """What is kept of the trials seen so far."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        self.sample_block: int | None = None
        """The first block that can be read: its streams are shown as samples."""
        self.warnings: list[str] = []
        self.found: dict[_Key, list[_Found]] = {}
        self.accounts: dict[tuple[str, str], Account] = {}
        self.compressed: set[str] = set()
        """Arms whose messages are compressed."""
        self.bytes: dict[Group, np.ndarray[Any, np.dtype[np.float64]]] = {}
        self.shapes = Shapes()
        self.cautions: list[Caution] = []
        self.behind: list[Caution] = []
        self.openings, self.recoveries, self.holdings = Openings(), Recoveries(), Holdings()
        self.leavings, self.slow_readers = Leavings(), SlowReadings()

    def add(self, trial: Trial) -> bool:
        """Take in a trial; false when it cannot be read, which leaves everything as it was."""
        from bench.record import SCHEMA, RecordError, read_trial

        arm, block = str(trial.facts["arm"]), int(trial.facts["block"])
        try:
            frame = read_trial(trial.path, SCHEMA.names)
        except RecordError as error:
            self.warnings.append(str(error))
            return False
        self.sample_block = block if self.sample_block is None else self.sample_block
        if _compresses(trial.facts, self.scenario["arms"][arm]["protocol"]):
            self.compressed.add(arm)
        phases = frame["phase"].astype(str)
        for phase, facts in trial.facts["phases"].items():
            for one in window_measures(facts):
                self._put(_Key(phase, arm, "all", 0, one.key, "value"), _Found(block, one.value, 1, one.slices))
            held = _capacity(facts.get("steps") or ()) if self._limit(phase) is not None else None
            if held is not None:
                self._put(_Key(phase, arm, "all", 0, "capacity", "value"), _Found(block, held, 1))
            for step in facts.get("steps") or ():
                at = _Key(phase, arm, "all", int(step["users"]), "gap_excess", "p99")
                if _has_gaps(step):
                    self._put(at, _Found(block, step["p99_gap_excess_ns"] / 1e6, 1))
            self._add_phase(phase, arm, block, facts, cast(pd.DataFrame, frame[phases == phase]))
        return True

    def _limit(self, phase: str) -> float | None:
        limit = self.scenario["phases"].get(phase, {}).get("limit_ms")
        return None if limit is None else float(limit)

    def _add_phase(self, phase: str, arm: str, block: int, facts: dict[str, Any], frame: pd.DataFrame) -> None:
        chunks = chunks_of(frame)
        websocket = self.scenario["arms"][arm]["protocol"] == "websocket"
        streams = streams_of(frame, chunks, websocket=websocket)
        rows = frame[frame["window"].astype(bool)]
        self._account(phase, arm, facts, streams, rows)
        seen = Seen(phase, arm, block, self.scenario, facts, streams, chunks, rows)
        for aspect in (self.openings, self.recoveries, self.leavings, self.slow_readers, self.holdings):
            aspect.add(seen)
        for key, found in _outage_measures(phase, arm, block, outages(streams, rows, facts)):
            self._put(key, found)
        # From here on: what a client sees that reads as fast as it can, until its stream breaks off, if it does.
        streams = streams[streams["attempt"] == 0]
        ended = int((streams["outcome"].astype(str) != "dropped").sum())
        streams = streams[~streams["slow"].astype(bool)]
        chunks = chunks[chunks["stream"].isin(streams["stream"])]
        settings, paced = self.scenario["phases"][phase], validity.paced(self.scenario, phase)
        self.cautions += cautions_of(phase, arm, block, streams, chunks, facts, settings, paced)
        behind = over_capacity(phase, arm, block, chunks, facts, settings) if paced else None
        if behind is not None:
            self.behind.append(behind)
        if ended and self.scenario["phases"][phase]["connections"] == "cold":
            for one in stream_costs(facts, ended):
                self._put(_Key(phase, arm, "all", 0, one.key, "value"), _Found(block, one.value, 1, one.slices))
        if settings["load"] == "crowd":
            streams = streams.assign(step=0)  # they are of one kind, whatever the size they were opened for
        for (cold, users), some in streams.groupby(["cold", "step"]):
            group = Group(phase, arm, "cold" if cold else "warm")
            own = chunks[chunks["stream"].isin(some["stream"])]
            for key, found in _group_measures(group, int(cast(int, users)), block, some, own):
                self._put(key, found)
            totals = np.array([some["got_tokens"].sum(), *(floats(some[c]).sum() for c in _BYTES)], dtype=np.float64)
            self.bytes[group] = self.bytes.get(group, np.zeros(len(totals))) + totals
            if self._limit(phase) is None and validity.paced(self.scenario, phase):
                self.shapes.add(group, some, own, _turns(facts), sample=block == self.sample_block)

    def _account(self, phase: str, arm: str, facts: dict[str, Any], streams: pd.DataFrame, rows: pd.DataFrame) -> None:
        account = self.accounts.setdefault((phase, arm), Account(phase, arm))
        account.tokens += int(streams["got_tokens"].sum())
        # What became of a stream, its last attempt tells.
        streams = streams.sort_values("attempt", kind="stable").drop_duplicates(["step", "ordinal"], keep="last")
        account.streams += len(streams)
        outcomes = streams["outcome"].astype(str).mask(left(streams), LEFT)
        for outcome, count in outcomes.value_counts().items():
            account.outcomes[str(outcome)] = account.outcomes.get(str(outcome), 0) + int(count)
        for defect in _DEFECTS:
            counted = streams if defect != "lost" else streams[~outcomes.isin(_ENDED_BY_CLIENT)]
            setattr(account, defect, getattr(account, defect) + int(counted[defect].sum()))
        account.lost += lost_by_leavers(rows)
        for fact in ("starts", "starts_late", "dropped"):
            setattr(account, fact, getattr(account, fact) + int(facts.get(fact) or 0))

    def _put(self, key: _Key, found: _Found) -> None:
        if np.isfinite(found.value):
            self.found.setdefault(key, []).append(found)

    def summary(self, run: Run, trials: list[Trial]) -> Summary:
        info, scenario = run.info, self.scenario
        values = [
            _value(key, found, scenario["phases"][key.phase]["users"][-1] if key.measure == "capacity" else None)
            for key, found in self.found.items()
        ]
        arms = _arms(scenario, trials)
        phases = [_phase(name, scenario, trials, values) for name in scenario["phases"]]
        used = {v.measure for v in values}
        return Summary(
            tokenwire=info["tokenwire"],
            run=info["run"],
            created=info["created"],
            state=info["state"],
            scenario=scenario["name"],
            source=info.get("source") or scenario["name"],
            title=scenario["title"],
            mode=scenario["experiment"]["mode"],
            seed=info["seed"],
            overrides=list(info["overrides"]),
            trials_planned=_planned(run) * len(scenario["arms"]),
            trials_finished=len(trials),
            blocks_planned=_planned(run),
            machine=info["machine"],
            versions=info["versions"],
            pinning=info["pinning"],
            warnings=[*run.warnings, *self.warnings],
            arms=arms,
            phases=phases,
            measures={k: MeasureInfo(m.title, m.unit, m.kind, m.meaning) for k, m in MEASURES.items() if k in used},
            values=values,
            incidents=_incidents(trials),
            accounts=[self.accounts[p.name, a.name] for p in phases for a in arms if (p.name, a.name) in self.accounts],
            wire=[_wire(g, totals, g.arm in self.compressed) for g, totals in self.bytes.items() if totals[0] > 0],
            shapes=self.shapes,
            blocks_whole=len(whole_blocks([t.facts for t in trials], scenario)),
            voids=[msgspec.convert(entry, Void) for entry in info.get("voids", ())],
            checks=checks([t.facts for t in run.trials], scenario),
            cautions=[one.text for one in merge(self.cautions)],
            over_capacity=behind(self.behind, arms),
            command=list(info.get("command", ("run",))),
            floors=dict(info.get("floors", {})),
            network=_network(trials),
            ceilings=_ceilings(run),
            openings=self.openings.found(),
            recoveries=self.recoveries.found(),
            leavings=self.leavings.found(),
            slow_readers=self.slow_readers.found(),
            holdings=self.holdings.found(),
            index={(v.phase, v.arm, v.temperature, v.users, v.measure, v.statistic): v for v in values},
        )


def _network(trials: Sequence[Trial]) -> dict[str, Any]:
    """What lay between in all trials of a run, without what went through it in one of them."""
    between: dict[str, Any] = next((t.facts["network"] for t in trials if t.facts.get("network")), {})
    return {key: between[key] for key in ("name", "kind", "network") if key in between}


def _ceilings(run: Run) -> list[Ceiling]:
    """What the roofline's trials reached, by phase and protocol."""
    found = []
    for trial in run.roofline:
        arm = str(trial.facts["arm"])
        protocol = arm.rpartition("-")[2]
        values = values_of(trial, {**run.info["scenario"], "arms": {arm: {"protocol": protocol}}})
        found += [Ceiling(v.phase, protocol, v.measure, v.median) for v in values if v.measure in _CEILING_OF]
    return found


def _planned(run: Run) -> int:
    """Blocks that were to count: as many as asked for, or with a budget as many as it had room for."""
    experiment = run.info["scenario"]["experiment"]
    begun = len(run.info["order"]) - len(run.void)
    return begun if experiment.get("budget_s") else max(begun, int(experiment.get("blocks", begun)))


def _turns(facts: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Start and end of every turn of a phase, ns; a record from before there were turns has one."""
    turns = [(int(turn["start_ns"]), int(turn["end_ns"])) for turn in facts.get("slices") or ()]
    return turns or [(int(facts["window_start_ns"]), int(facts["window_end_ns"]))]


def _has_gaps(step: Mapping[str, Any]) -> bool:
    """Whether a step had any gap between tokens, without which nothing can be judged: the driver records -1 then."""
    return step["p99_gap_excess_ns"] not in (None, -1)


def _capacity(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Most users before the first step beyond the limit; None where a step up to there cannot be judged."""
    held = 0
    for step in steps:
        if not _has_gaps(step):
            return None
        if not step["within_limit"]:
            break
        held = step["users"]
    return float(held) if steps else None


def _group_measures(
    group: Group, users: int, block: int, streams: pd.DataFrame, chunks: pd.DataFrame
) -> Iterator[tuple[_Key, _Found]]:
    """Percentiles of the streams and chunks of one trial, each only where enough samples lie beyond it."""

    def key_of(measure: str, statistic: str) -> _Key:
        return _Key(group.phase, group.arm, cast(Temperature, group.temperature), users, measure, statistic)

    for key, measure in MEASURES.items():
        if measure.level in ("stream", "gap", "chunk"):
            values = floats((streams if measure.level == "stream" else chunks)[key])
            for statistic, found in _percentiles(measure, values, block):
                yield key_of(key, statistic), found
    tokens, reads = float(streams["got_tokens"].sum()), chunks["read"].nunique()
    if tokens:
        received = float(floats(streams["received_bytes"]).sum())
        yield key_of("wire_bytes", "value"), _Found(block, received / tokens, 1)
        yield key_of("segments", "value"), _Found(block, float(floats(streams["segments"]).sum()) / tokens, 1)
    if reads:
        yield key_of("coalescing", "value"), _Found(block, len(chunks) / reads, 1)


def _outage_measures(phase: str, arm: str, block: int, breaks: pd.DataFrame) -> Iterator[tuple[_Key, _Found]]:
    """The same of the breaks of one phase of one trial, whatever connection they were on."""
    for key, measure in MEASURES.items():
        if measure.level == "outage":
            for statistic, found in _percentiles(measure, floats(breaks[key]), block):
                yield _Key(phase, arm, "all", 0, key, statistic), found


def _percentiles(measure: Measure, values: Floats, block: int) -> Iterator[tuple[str, _Found]]:
    values = values[~np.isnan(values)]
    for statistic in measure.statistics:
        q = fraction(statistic)
        if len(values) and (q == 0.5 or (1 - q) * len(values) >= FEWEST_BEYOND - 1e-9):
            yield statistic, _Found(block, float(np.quantile(values, q)), len(values))


def _value(key: _Key, found: list[_Found], top: float | None) -> Value:
    """Median and range over trials. `top` is the most that could be found: more was not tried."""
    numbers = [f.value for f in found]
    return Value(
        *key[:6],
        unit=MEASURES[key.measure].unit,
        median=float(np.median(numbers)),
        min=min(numbers),
        max=max(numbers),
        per_trial=numbers,
        blocks=[f.block for f in found],
        per_slice=[list(f.slices) for f in found] if any(f.slices for f in found) else [],
        samples=sum(f.samples for f in found),
        at_least=top is not None and sorted(numbers)[len(numbers) // 2] >= top,
        max_at_least=top is not None and max(numbers) >= top,
    )


def _compresses(facts: Mapping[str, Any], protocol: str) -> bool:
    """Whether the server says that compression was in force, for the arm's protocol or for all of them."""
    setting = facts["server"].get("settings", {}).get("compression")
    return bool(setting.get(protocol) if isinstance(setting, dict) else setting)


def _wire(group: Group, totals: np.ndarray[Any, np.dtype[np.float64]], compressed: bool) -> WireBytes:
    tokens, received, head, payload, content, text = (float(t) for t in totals)
    messages = (received - head - payload, payload - content, content - text, text)
    framing, other, envelope, plain = (None if compressed else m / tokens for m in messages)
    return WireBytes(
        group.phase,
        group.arm,
        cast(Literal["cold", "warm"], group.temperature),
        head=head / tokens,
        framing=framing,
        other=other,
        envelope=envelope,
        text=plain,
        compressed=(received - head) / tokens if compressed else None,
        total=received / tokens,
    )


def _phase(name: str, scenario: dict[str, Any], trials: list[Trial], values: list[Value]) -> Phase:
    settings = scenario["phases"][name]
    found = {v.temperature for v in values if v.phase == name}
    return Phase(
        name=name,
        load=settings["load"],
        paced=validity.paced(scenario, name),
        temperatures=[t for t in ("cold", "warm") if t in found],
        trials=sum(name in t.facts["phases"] for t in trials),
        limit_ms=settings.get("limit_ms"),
        settings=dict(settings),
        profile=dict(scenario["profiles"].get(settings["profile"], {})),
    )


def _incidents(trials: list[Trial]) -> list[Incident]:
    found = []
    for facts in (t.facts for t in trials):
        died, mismatches = facts["server"].get("died"), int(facts.get("schedule_mismatches") or 0)
        if died is not None or mismatches:
            found.append(Incident(facts["arm"], facts["block"], None if died is None else int(died), mismatches))
    return found


def _arms(scenario: dict[str, Any], trials: list[Trial]) -> list[Arm]:
    names = {"sse": "SSE", "websocket": "WebSocket"}
    # A command is known by nothing but its arm's name.
    plain = {
        n: f"{names.get(a['protocol'], a['protocol'])} on {n if a.get('command') else a['stack']}"
        for n, a in scenario["arms"].items()
    }
    arms = []
    for name, settings in scenario["arms"].items():
        own = [t.facts for t in trials if t.facts["arm"] == name]
        server = own[0]["server"] if own else {}
        twice = list(plain.values()).count(plain[name]) > 1
        arms.append(
            Arm(
                name=name,
                label=f"{plain[name]} ({name})" if twice else plain[name],
                protocol=settings["protocol"],
                stack="command" if settings.get("command") else settings["stack"],
                trials=len(own),
                server_versions=dict(server.get("versions", {})),
                server_settings=dict(server.get("settings", {})),
                driver=dict(own[0].get("driver", {})) if own else {},
            )
        )
    return arms
