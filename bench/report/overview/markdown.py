"""An overview's summary.md, for pasting into a pull request."""

from __future__ import annotations

from bench.report.finding import Finding, Grid
from bench.report.overview import words
from bench.report.overview.data import Overview


def render(overview: Overview) -> str:
    """The overview without its charts, as GitHub-flavoured Markdown."""
    alarm = words.alarm(overview)
    lines = [f"**Modelled networks.** {_escaped(alarm)}", ""] if alarm else []
    lines += [f"## {_escaped(overview.title)}", "", _escaped(words.what_was_run(overview)), ""]
    lines += [f"- {_finding(f)}" for f in words.troubles(overview)]
    lines += ["", *_grid(words.matrix(overview))]
    for contrast, effects in words.by_contrast(overview):
        lines += [f"### {_escaped(contrast)}", ""]
        for e in effects:
            said = " ".join(filter(None, [f"{words.verdicts(e)}.", words.growth(e.slope)]))
            lines.append(f"- **{_escaped(words.what(e))}:** {_escaped(said)}")
        lines.append("")
        for e in effects:
            lines += _grid(words.detail(e, overview), f"{words.what(e)}: ")
    lines += _grid(words.networks(overview))
    reports = [f"[{leg.network}]({leg.report})" for leg in overview.networks if leg.report]
    lines += [f"Reports: {', '.join(reports)}. Again:", "", f"    {words.command(overview)}", ""]
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    text = _escaped(f"{finding.lead}: {finding.text}" if finding.lead else finding.text)
    return f"**{text}**" if finding.grave else text


def _grid(grid: Grid, lead: str = "") -> list[str]:
    head, *body = [f"| {' | '.join(map(_escaped, row))} |" for row in (grid.head, *grid.rows)]
    return [f"**{_escaped(lead + grid.caption)}**", "", head, "|---" * len(grid.head) + "|", *body, ""]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
