"""`tokenwire compare` and `tokenwire history`. What they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.exits import FAILED, USAGE, fail


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as results/duel-...")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another: it is compared with the first.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Two stored runs: what differs, as far as runs that did not take turns can tell.

    Of one machine and the same work all measures are compared, otherwise only what must be exact; it says which and
    why. No verdict: that takes `gate`, or arms of one run.
    """
    from rich.console import Console

    from bench.compare import compare as compared
    from bench.compare import show
    from bench.record import RecordError

    try:
        found = compared(first, second)
    except RecordError as error:
        fail(error, USAGE)
    if as_json:
        print(show.as_json(found))
    else:
        show.print_compared(found, Console(highlight=False))


def history(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or gates, or folders of such, as results.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where history.parquet and history.html are kept.")
    ] = Path("results/history"),
) -> None:
    """Many runs: add them to one Parquet file and draw each measure over commits, with its change points.

    What the file has is kept; a run that it has is not added again.
    """
    from rich.console import Console

    from bench.history import history as collected
    from bench.history import show
    from bench.record import RecordError

    try:
        found = collected(folders, output)
    except RecordError as error:
        fail(error, USAGE)
    except OSError as error:
        fail(f"{error.filename or output}: {error.strerror}; give another --output", FAILED)
    show.print_history(found, Console(highlight=False))
