"""The command `tokenwire`. Imports what a command needs only when that command runs: `--help` must be instant.

Exit codes: 0 done; 1 a trial, or a report, could not be made; 2 wrong usage or scenario; 3 the instrument was at fault,
so that there is no verdict; 130 stopped by Ctrl-C. Of several networks that ended differently: 130, else 1, else 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.exits import FAILED, INTERRUPTED, INVALID, USAGE, fail
from bench.gate.cli import gate
from bench.stored_cli import compare, history

if TYPE_CHECKING:
    from bench.metrics import Summary
    from bench.progress import Progress
    from bench.report.overview.data import Overview
    from bench.scenario import Scenario

app = typer.Typer(
    name="tokenwire",
    help="Should LLM tokens travel over Server-Sent Events or over WebSocket? Measure it, here, for your traffic.",
    epilog="Exit codes: 0 done, 1 a trial or report failed, 2 wrong usage or scenario, 3 the instrument or machine was "
    "at fault, 130 stopped by Ctrl-C.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as phases.chat.users=500. Repeatable."),
]


def _show(folder: Path) -> Summary | str:
    """Write every output of a run and print its summary, and return it; or why there is nothing to show."""
    from rich.console import Console

    from bench.metrics import Unfinished
    from bench.record import RecordError
    from bench.report import build
    from bench.report.terminal import print_summary

    try:
        summary, written = build(folder)
    except (RecordError, Unfinished) as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder}: cannot be written: {error.strerror}"
    print_summary(summary, Console(highlight=False))
    print(f"report: {written['html']}")
    return summary


def _show_set(folder: Path) -> Overview | str:
    """The same for a set: every output of its runs, and of the overview of them."""
    from rich.console import Console

    from bench.metrics import Unfinished
    from bench.record import RecordError
    from bench.report import overview
    from bench.report.overview.terminal import print_overview

    try:
        found, written = overview.build(folder)
    except (RecordError, Unfinished) as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder}: cannot be written: {error.strerror}"
    print_overview(found, Console(highlight=False))
    print(f"report: {written['html']}, which leads to those of the networks")
    return found


Load = Annotated[
    Literal["asyncio", "locust"] | None,
    typer.Option("--driver", help="What makes the load; default as the scenario says, else asyncio."),
]


@app.command()
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(help="A shipped scenario (see `scenarios`; default duel) or the path of a TOML file."),
    ] = None,
    overrides: Overrides = None,
    driver: Load = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Such as 5m: stop when the intervals are narrow enough, or by then. Several networks share it evenly.",
        ),
    ] = None,
    going_on: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Go on with an interrupted or failed run, or set of runs."),
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder that runs are kept in.")] = Path("results"),
) -> None:
    """Run a scenario and write its report; over several networks, a run for each and an overview."""
    from bench import experiment, floor, limits, netset, netset_run
    from bench.progress import Progress
    from bench.scenario_toml import ScenarioError, load

    if going_on is not None:
        if scenario is not None or overrides or driver or budget is not None:
            fail(
                "--resume goes on with a run as it began: give neither a scenario, --set, --driver nor --budget", USAGE
            )
        if netset.is_set(going_on):
            _finish_set(going_on, lambda: netset_run.resume(going_on, _on_its_network))
        else:
            _finish(going_on, lambda: experiment.resume(going_on, Progress))
        return
    settings = _settings(overrides, driver)
    if budget is not None:
        settings.append(f"experiment.budget_s={_seconds(budget)}")
    named = scenario or "duel"
    try:
        loaded = load(named, settings)
        if excess := limits.check(loaded):
            raise ScenarioError(f"{named}: {excess}")
        warning = netset_run.check_permitted(loaded, named)
        own = {name: netset_run.over(loaded, name) for name in loaded.experiment.networks}
        several = len(own) > 1
        floors = {
            name: floor.check(results, o, f"{named}, over {name}" if several else named) for name, o in own.items()
        }
    except ScenarioError as error:
        fail(error, USAGE)
    folder = _new_folder(results, loaded)
    _warn_of_machine(results)
    if warning:
        print(f"tokenwire: {warning}", file=sys.stderr)
    if several:
        _finish_set(folder, lambda: netset_run.run(loaded, named, settings, folder, _on_its_network, floors=floors))
        return

    def carry_out() -> str:
        with Progress(loaded) as progress:
            return experiment.run(
                loaded, named, settings, folder, progress, floors=floors[loaded.experiment.networks[0]]
            )

    _finish(folder, carry_out)


def _settings(overrides: list[str] | None, driver: str | None) -> list[str]:
    """What options say of the scenario, as overrides."""
    return [*(overrides or []), *([f"experiment.driver={driver}"] if driver else [])]


@contextmanager
def _on_its_network(scenario: Scenario) -> Iterator[Progress]:
    """Progress of the run over one network of a set; a failure is a line at once, as the set goes on."""
    import msgspec

    from bench.progress import Progress
    from bench.trial import TrialError

    network = scenario.experiment.networks[0]
    print(f"{scenario.name} over {network}, {scenario.network(network).rtt_ms:g} ms round trip", file=sys.stderr)
    try:
        with Progress(msgspec.structs.replace(scenario, name=f"{scenario.name} over {network}")) as progress:
            yield progress
    except TrialError as error:
        print(f"tokenwire: network {network}: {error}", file=sys.stderr)
        raise


def _warn_of_machine(results: Path) -> None:
    """Say in a line each what about this machine would make results invalid, as far as that is seen at a glance."""
    from bench import doctor

    for finding in doctor.quick(results):
        if finding.status is doctor.Status.PROBLEM:
            print(
                f"tokenwire: {finding.name}: {finding.seen}; wanted: {finding.wanted}. {finding.advice}",
                file=sys.stderr,
            )


def _new_folder(results: Path, scenario: Scenario) -> Path:
    from bench import experiment, netset_run

    new_folder = netset_run.new_folder if len(scenario.experiment.networks) > 1 else experiment.new_folder
    try:
        return new_folder(results, scenario)
    except OSError as error:
        fail(f"{results}: cannot hold results: {error.strerror}; give a folder you can write with --results", USAGE)


@app.command()
def aa(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario or the path of a TOML file.")] = "duel",
    arm: Annotated[
        str | None, typer.Option(metavar="NAME", help="The arm to run against itself; default the first.")
    ] = None,
    overrides: Overrides = None,
    driver: Load = None,
    results: Annotated[Path, typer.Option(help="The folder that runs are kept in.")] = Path("results"),
) -> None:
    """Run an arm against itself: how large a difference this machine shows where there is none.

    The noise floor of every measure is printed, and later runs of the scenario in the same folder are held to it: a
    smallest effect below it is refused.
    """
    from bench import experiment, floor, netset_run
    from bench.progress import Progress
    from bench.scenario_toml import ScenarioError, load

    try:
        settings = _settings(overrides, driver)
        twice = floor.against_itself(load(scenario, settings), arm, scenario)
        warning = netset_run.check_permitted(twice, scenario)
    except ScenarioError as error:
        fail(error, USAGE)
    folder = _new_folder(results, twice)
    if warning:
        print(f"tokenwire: {warning}", file=sys.stderr)
    own = next(iter(twice.arms))

    def carry_out() -> str:
        with Progress(twice) as progress:
            return experiment.run(twice, scenario, settings, folder, progress, command=["aa", "--arm", own])

    _show_floors(_finish(folder, carry_out), twice, own, results)


def _show_floors(summary: Summary, scenario: Scenario, arm: str, results: Path) -> None:
    """Print the noise floors by an A/A run, and remember them."""
    from rich.console import Console

    from bench import floor

    conclusions = summary.conclusions
    assert conclusions is not None, "a report that was built has them"
    try:
        floor.remember(results, floor.noise_of(conclusions, scenario, summary.run, arm))
    except OSError as error:
        fail(f"{results}: the noise cannot be kept: {error.strerror}", FAILED)
    floor.print_floors(conclusions, Console(highlight=False))


def _seconds(text: str) -> float:
    """`300`, `300s`, `5m` or `1h` as seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        fail(f"--budget {text}: expected a time of up to a day, such as 90s, 5m or 1h", USAGE)
    return seconds


def _finish(folder: Path, carry_out: Callable[[], str]) -> Summary:
    """Carry out a run and report what there is of it, however it ended; exit with the code for that, or return it."""
    from bench.record import RecordError
    from bench.trial import TrialError

    failure: TrialError | None = None
    state = "failed"
    try:
        state = carry_out()
    except RecordError as error:
        fail(error, USAGE)
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror}; the blocks before it are kept", FAILED)
    except TrialError as error:
        failure = error
    shown = _show(folder)
    nothing = isinstance(shown, str)
    if failure is not None:
        kept = "no trial had finished" if nothing else "the blocks before it are reported above"
        fail(f"{failure}; {kept}. To go on: tokenwire run --resume {folder}", FAILED)
    if isinstance(shown, str):
        fail(shown, INTERRUPTED if state == "interrupted" else FAILED)
    if state == "invalid":
        fail("too many blocks were void, so there is no verdict; `tokenwire doctor` says what to look at", INVALID)
    if state == "interrupted":
        print(f"to go on: tokenwire run --resume {folder}")
        raise typer.Exit(INTERRUPTED)
    return shown


def _finish_set(folder: Path, carry_out: Callable[[], str]) -> None:
    """Carry out a set of runs and show the overview of what there is; exit with the code for the worst of them."""
    from bench.record import RecordError

    try:
        state = carry_out()
    except RecordError as error:
        fail(error, USAGE)
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror}; the blocks before it are kept", FAILED)
    shown = _show_set(folder)
    if isinstance(shown, str):
        fail(shown, {"interrupted": INTERRUPTED, "invalid": INVALID}.get(state, FAILED))
    names = {ended: [leg.network for leg in shown.networks if leg.state == ended] for ended in ("failed", "invalid")}
    if state == "interrupted":
        print(f"to go on: tokenwire run --resume {folder}")
        raise typer.Exit(INTERRUPTED)
    if state == "failed":
        fail(f"failed over {', '.join(names['failed'])}. To go on: tokenwire run --resume {folder}", FAILED)
    if state == "invalid":
        over = ", ".join(names["invalid"])
        fail(f"too many blocks were void over {over}, so there is no verdict; `tokenwire doctor` says more", INVALID)


@app.command(name="report")
def report_(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as results/duel-...")],
) -> None:
    """Rebuild every output of a run, or of a set of runs, from its records."""
    from bench import netset

    shown = _show_set(folder) if netset.is_set(folder) else _show(folder)
    if isinstance(shown, str):
        fail(shown, USAGE)


app.command()(gate)
app.command()(compare)
app.command()(history)


@app.command()
def scenarios() -> None:
    """List the scenarios that come with tokenwire."""
    from bench.scenario_toml import load, shipped

    width = max(map(len, shipped()))
    for name in shipped():
        print(f"{name:{width}}  {load(name).title}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """Serve the mock LLM alone, for any client: `tokenwire serve aiohttp`, or `tokenwire serve --scenario duel`."""
    if any(argument.partition("=")[0] in ("--scenario", "--help", "-h") for argument in context.args):
        from bench.target import main as serve_scenario

        serve_scenario(context.args)
    from servers.__main__ import main as serve_main

    serve_main(context.args)


@app.command()
def locustfile() -> None:
    """Print the path of tokenwire's locustfile: locust -f "$(tokenwire locustfile)" --host http://TARGET."""
    print(Path(__file__).with_name("swarm") / "locustfile.py")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    results: Annotated[Path, typer.Option(help="The folder that runs are to be kept in.")] = Path("results"),
) -> None:
    """Check this machine before a run, in about two seconds, and say what to change.

    Exit codes: 0 nothing is a problem (advice may be given), 3 the machine would make results invalid.
    """
    from rich.console import Console

    from bench.doctor import examine, show

    found = examine(results)
    if as_json:
        print(show.as_json(found))
    else:
        show.print_findings(found, Console(highlight=False))
    if not show.fit(found):
        raise typer.Exit(INVALID)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("tokenwire"))


def main() -> None:
    """Run the command line; every way out is a documented exit code."""
    try:
        app()
    except KeyboardInterrupt:
        print("tokenwire: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
