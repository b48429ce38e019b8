"""Run a scenario over several networks: an ordinary run over each, one after another.

Networks are not interleaved. A difference between arms is taken within a block, and a block is on one network, so that
a machine that changes in the meantime moves no comparison; and a set that is stopped half-way has verdicts for half its
networks, rather than too few blocks on all of them. Each network is a family of its own: its verdicts are corrected for
the comparisons on it, and do not depend on what other networks are in the set.

A budget is for the whole set: each network gets an equal share.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench import experiment, machine
from bench.experiment import Watcher
from bench.netset import SCENARIO_FILE, NetSet, State, read_set, state_of, worst, write_set
from bench.network.between import is_loopback, permitted
from bench.record import TRIALS, RecordError
from bench.scenario import Scenario
from bench.scenario_toml import ScenarioError, find
from bench.trial import TrialError

Watched = Callable[[Scenario], AbstractContextManager[Watcher]]
"""Makes who is told how the run over one network goes, from that run's scenario."""


def over(scenario: Scenario, network: str) -> Scenario:
    """The scenario over one of its networks, with its share of the budget."""
    wanted = scenario.experiment
    share = None if wanted.budget_s is None else wanted.budget_s / len(wanted.networks)
    return msgspec.structs.replace(
        scenario, experiment=msgspec.structs.replace(wanted, networks=[network], budget_s=share)
    )


def overrides_of(own: Scenario, overrides: Sequence[str]) -> list[str]:
    """The overrides with which the scenario's file becomes `own`, the scenario over one network."""
    added = [f"experiment.networks={msgspec.json.encode(own.experiment.networks).decode()}"]
    if own.experiment.budget_s is not None:
        added.append(f"experiment.budget_s={own.experiment.budget_s:g}")
    keys = {text.partition("=")[0] for text in added}
    return [*(text for text in overrides if text.partition("=")[0].strip() not in keys), *added]


def check_permitted(scenario: Scenario, where: str) -> str:
    """Whether its networks can be had as asked for. Return a warning, or nothing; raise `ScenarioError` where not."""
    wanted = scenario.experiment
    if wanted.network_by == "packets" and (why := permitted()):
        raise ScenarioError(
            f"{where}: experiment.network_by = 'packets': not permitted here: {why}; run as root, or use 'proxy', "
            "which models networks on streams"
        )
    far = [name for name in wanted.networks if not is_loopback(scenario.network(name))]
    if wanted.network_by == "auto" and far and (why := permitted()):
        return (
            f"{', '.join(far)}: modelled by a proxy on streams, as delaying packets is not permitted here: {why}; "
            "run as root for packets"
        )
    return ""


def new_folder(results: Path, scenario: Scenario) -> Path:
    """Make and return the folder of a new set. Raises `OSError`."""
    folder = experiment.new_folder(results, scenario)
    (folder / TRIALS).rmdir()  # trials are a level below, with the networks
    return folder


def run(
    scenario: Scenario,
    named: str,
    overrides: Sequence[str],
    folder: Path,
    watched: Watched,
    *,
    floors: Mapping[str, Mapping[str, float]],
) -> State:
    """Run `scenario` over each of its networks into `folder`; `named` is the scenario as the user named it.

    `floors` are what is known of the noise, by network. A network whose run fails, or is invalid, does not keep the
    others from running. Returns the worst of what became of them. Ctrl-C ends the set as it ends a run.
    """
    shutil.copyfile(find(named), folder / SCENARIO_FILE)
    netset = NetSet(
        tokenwire=version("tokenwire"),
        set=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        state="running",
        source=named,
        overrides=list(overrides),
        networks=scenario.experiment.networks,
        scenario=scenario,
        machine=machine.describe(),
        floors={network: dict(own) for network, own in floors.items()},
    )
    return _go_on(netset, folder, watched)


def resume(folder: Path, watched: Watched) -> State:
    """Go on with a set that was interrupted, killed, or failed in a network; returns like `run`.

    Raises `RecordError` when there is nothing to go on with, or new blocks could not be compared with those there are.
    """
    netset = read_set(folder)
    states = {name: state_of(folder, name) for name in netset.networks}
    if not any(state in (*experiment.RESUMABLE, "not run") for state in states.values()):
        raise RecordError(f"{folder}: the set is {worst(list(states.values()))}; there is no network to go on with")
    for what, mine in (("machine", machine.describe()), ("tokenwire", version("tokenwire"))):
        if getattr(netset, what) != mine:
            raise RecordError(f"{folder}: another {what} began this set; its blocks cannot be compared with new ones")
    if "not run" in states.values() and not _unchanged(netset, folder):
        raise RecordError(
            f"{netset.source}: not what it was when this set began ({folder / SCENARIO_FILE}), so that the networks "
            "still to run would be run with another scenario; put it back, or run anew"
        )
    return _go_on(netset, folder, watched)


def _unchanged(netset: NetSet, folder: Path) -> bool:
    try:
        return find(netset.source).read_bytes() == (folder / SCENARIO_FILE).read_bytes()
    except (ScenarioError, OSError):
        return False


def _go_on(netset: NetSet, folder: Path, watched: Watched) -> State:
    """Run or go on with every network that is not done; return the state, which set.json then has too."""

    def save(state: State) -> State:
        netset.state = state
        write_set(folder, netset)
        return state

    save("running")
    stop = _Stop()
    try:
        for network in netset.networks:
            if state_of(folder, network) in ("finished", "invalid"):
                continue
            netset.failures.pop(network, None)
            try:
                state = _one(netset, folder, network, stop.heeding(watched))
            except TrialError as error:
                netset.failures[network] = str(error)
                state = "failed"
            if stop.asked or state == "interrupted":
                break
            save("running")
    except KeyboardInterrupt:  # between two networks: within one it is for the experiment to heed
        pass
    return save(worst([state_of(folder, network) for network in netset.networks]))


def _one(netset: NetSet, folder: Path, network: str, watched: Watched) -> str:
    own = folder / network
    if state_of(folder, network) != "not run":
        return experiment.resume(own, watched)
    (own / TRIALS).mkdir(parents=True, exist_ok=True)
    scenario = over(netset.scenario, network)
    overrides = overrides_of(scenario, netset.overrides)
    floors = netset.floors.get(network, {})
    with watched(scenario) as watcher:
        return experiment.run(scenario, netset.source, overrides, own, watcher, floors=floors)


class _Stop:
    """Whether the user asked to stop, in whatever run: one that was in its last block then counts as finished."""

    asked = False

    def heeding(self, watched: Watched) -> Watched:
        """`watched`, whose watchers are listened to."""

        @contextmanager
        def listening(scenario: Scenario) -> Iterator[Watcher]:
            with watched(scenario) as watcher:
                yield _Listening(watcher, self)

        return listening


class _Listening:
    """Passes on all it is told."""

    def __init__(self, watcher: Watcher, stop: _Stop) -> None:
        self.begins, self.ended, self.heard = watcher.begins, watcher.ended, watcher.heard
        self._watcher, self._stop = watcher, stop

    def stopping(self) -> None:
        self._stop.asked = True
        self._watcher.stopping()
