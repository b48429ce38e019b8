"""Every output of a gate, into one folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.files import write_whole
from bench.gate.outputs import bencher, benchmark, json_, junit, markdown, prometheus
from bench.gate.result import FILE, Gate

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Names the file that GitHub shows on the page of a job, in Markdown."""


def write_all(gate: Gate, folder: Path) -> dict[str, Path]:
    """Write gate.json, gate.md, and what other tools read; return the paths by name. Raises `OSError`.

    Where GitHub names a file for the job's summary, gate.md is appended to it; that it cannot be is a warning only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown.render(gate)
    written = {
        "json": write_whole(folder / FILE, json_.render(gate)),
        "markdown": write_whole(folder / "gate.md", text),
        "junit": write_whole(folder / "gate-junit.xml", junit.render(gate)),
        "benchmark": write_whole(folder / "gate-benchmark.json", benchmark.render(gate)),
        "bencher": write_whole(folder / "gate-bencher.json", bencher.render(gate)),
        "prometheus": write_whole(folder / "gate.prom", prometheus.render(gate)),
    }
    summary = os.environ.get(SUMMARY)
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(f"\n{text}")
        except OSError as error:
            print(f"tokenwire: {SUMMARY}: {summary}: {error.strerror}, so the job has no summary", file=sys.stderr)
    return written
