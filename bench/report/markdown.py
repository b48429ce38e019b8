"""summary.md: the findings and the tables, for pasting into a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics import Summary
from bench.report import describe
from bench.report.comparisons import counter_grid, explored, verdict_grid
from bench.report.finding import Grid
from bench.report.findings import Finding, figures, findings
from bench.report.sections import Section
from bench.report.tables import Table, phase_tables
from bench.report.validity import invalid, rules_grid, voids_grid
from bench.report.verdicts import conditions, verdicts


def render(summary: Summary, told: Sequence[Section]) -> str:
    """The report without its charts, as GitHub-flavoured Markdown."""
    alarm = invalid(summary)
    lines = [f"**{_escaped(alarm)}**", ""] if alarm else []
    lines += [f"## {_escaped(summary.title)}", "", _escaped(describe.what_was_run(summary)), ""]
    given = verdicts(summary)
    for verdict in given:
        lead = f" {_escaped(verdict.lead)}:" if verdict.lead else ""
        lines.append(f"- **[{verdict.chip}]**{lead} {_escaped(verdict.text)}")
    if given:
        lines += ["", _escaped(f"Verdicts are for {conditions(summary)}."), ""]
    lines += [*map(_finding, findings(summary)), ""]
    for grid in (verdict_grid(summary), counter_grid(summary)):
        lines += _grid(grid)
    for phase in summary.phases:
        lines += [f"### {_escaped(phase.name)}", ""]
        lines += [_escaped(f"{describe.load(phase)}; {describe.profile(phase)}."), ""]
        lines += [*map(_finding, figures(summary, phase)), ""]
        for table in phase_tables(summary, phase):
            lines += [*_table(table), ""]
        grid = explored(summary, phase)
        if grid:
            lines += ["<details><summary>Exploratory comparisons</summary>", "", *_grid(grid), "</details>", ""]
        if not phase.trials:
            lines += ["No finished trial holds this phase.", ""]
    for section in told:
        lines += [f"### {_escaped(section.title)}", "", _escaped(section.note), ""]
        lines += [*map(_finding, section.findings), ""]
        for grid in section.grids:
            lines += _grid(grid)
    trust = [line for grid in (voids_grid(summary), rules_grid(summary)) for line in _grid(grid)]
    if trust:
        lines += ["### Can the instrument be trusted?", "", *trust]
    lines += ["Cells: median over trials (lowest to highest trial). Again:", "", f"    {describe.command(summary)}", ""]
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    text = _escaped(finding.text)
    lead = f"**{_escaped(finding.lead)}:** " if finding.lead else ""
    return f"- {lead}**{text}**" if finding.grave else f"- {lead}{text}"


def _table(table: Table) -> list[str]:
    lines = [f"**{_escaped(table.caption)}**", ""]
    lines.append("| | " + " | ".join(_escaped(a) for a in table.arms) + " |")
    lines.append("|---|" + "---:|" * len(table.arms))
    for section in table.sections:
        lines.append(f"| *{_escaped(section.title)}* |" + " |" * len(table.arms))
        for row in section.rows:
            cells = [f"{c.middle} ({c.reach})" if c.reach else c.middle or "–" for c in row.cells]
            unit = f" [{row.unit}]" if row.unit else ""
            lines.append(f"| {_escaped(row.title + unit)} | " + " | ".join(cells) + " |")
    return lines


def _grid(grid: Grid | None) -> list[str]:
    if grid is None:
        return []
    rows = [grid.head, *grid.rows]
    head, *body = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return [f"**{_escaped(grid.caption)}**", "", head, "|---" * len(grid.head) + "|", *body, ""]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
