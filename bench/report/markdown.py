"""summary.md: the findings and the tables, for pasting into a pull request."""

from __future__ import annotations

from bench.metrics import Summary
from bench.report import describe
from bench.report.findings import NO_VERDICT, findings
from bench.report.tables import Table, phase_tables


def render(summary: Summary) -> str:
    """The report without its charts, as GitHub-flavoured Markdown."""
    lines = [f"## {_escaped(summary.title)}", "", _escaped(describe.what_was_run(summary)), ""]
    for finding in findings(summary):
        text = _escaped(finding.text)
        lead = f"**{_escaped(finding.lead)}:** " if finding.lead else ""
        lines.append(f"- {lead}**{text}**" if finding.grave else f"- {lead}{text}")
    lines += ["", NO_VERDICT, ""]
    for phase in summary.phases:
        lines += [f"### {_escaped(phase.name)}", ""]
        lines += [_escaped(f"{describe.load(phase)}; {describe.profile(phase)}."), ""]
        for table in phase_tables(summary, phase):
            lines += [*_table(table), ""]
        if not phase.trials:
            lines += ["No finished trial holds this phase.", ""]
    lines += ["Cells: median over trials (lowest to highest trial). Again:", "", f"    {describe.command(summary)}", ""]
    return "\n".join(lines)


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


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
