"""`tokenwire gate`. What it needs is imported when it runs.

Exit codes: 0 pass, 1 regression, 2 wrong usage, 3 the instrument or base was at fault, 4 inconclusive, 130 stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.exits import FAILED, INTERRUPTED, USAGE, fail


def gate(
    base: Annotated[
        str | None,
        typer.Option(metavar="REF", help="The revision to compare the working tree with, such as origin/main."),
    ] = None,
    base_command: Annotated[
        str | None,
        typer.Option(
            "--base-cmd",
            metavar="COMMAND",
            help="Instead of a revision: what serves the API, such as 'gateway --port {port}'. With {upstream}, the "
            "address of the mock LLM behind it.",
        ),
    ] = None,
    head_command: Annotated[
        str | None, typer.Option("--head-cmd", metavar="COMMAND", help="The same of head; with --base-cmd.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="NAME", help="default or small (weaker), or one of the thresholds.")] = (
        "default"
    ),
    thresholds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What decides, and from when on; see docs/gate.md.")
    ] = None,
    inconclusive: Annotated[
        Literal["report", "pass", "fail"], typer.Option(help="Exit with 4, or count it as 0 or 1.")
    ] = "report",
    always: Annotated[
        bool, typer.Option("--always", help="Measure even where base and head differ in nothing that is measured.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the scenario. Repeatable."),
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder that runs are kept in.")] = Path("results"),
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where gate.md, gate.json and the like go; default the run's.")
    ] = None,
) -> None:
    """Does this change make streaming slower? Base and head side by side, measured by head's driver.

    Exit codes: 0 pass, 1 regression, 2 wrong usage, 3 the instrument or base was at fault, 4 inconclusive.
    """
    by_command = (base_command is not None, head_command is not None)
    if base is not None and any(by_command):
        fail(
            "--base compares this project's own servers, --base-cmd and --head-cmd any others: give one or the other",
            USAGE,
        )
    if base is None and not all(by_command):
        fail("what is compared? Give --base REF, such as --base origin/main, or both --base-cmd and --head-cmd", USAGE)

    from rich.console import Console

    from bench.gate import outputs
    from bench.gate import run as gating
    from bench.gate.sides import SideError
    from bench.gate.thresholds import DEFAULT, read
    from bench.scenario_toml import ScenarioError

    def told(text: str) -> None:
        print(f"tokenwire: {text}", file=sys.stderr)

    try:
        request = gating.Request(
            read(thresholds or DEFAULT),
            size,
            overrides or [],
            results,
            base or "",
            base_command or "",
            head_command or "",
            inconclusive,
            always,
        )
        found, folder = gating.run(request, told)
    except (ScenarioError, SideError) as error:
        fail(error, USAGE)
    except gating.Interrupted as error:
        fail(error, INTERRUPTED)
    except OSError as error:
        fail(f"{error.filename or results}: {error.strerror}; give a folder you can write to with --results", USAGE)
    where = output or folder
    try:
        where.mkdir(parents=True, exist_ok=True)
        written = outputs.write_all(found, where)
    except OSError as error:
        outputs.print_gate(found, Console(highlight=False))
        fail(f"{error.filename or where}: cannot be written: {error.strerror}; give another --output", FAILED)
    outputs.print_gate(found, Console(highlight=False))
    print(f"written: {written['markdown']} and more beside it")
    raise typer.Exit(found.exit_code)
