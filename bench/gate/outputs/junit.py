"""gate-junit.xml: what decides as test cases, for the test reports of CI systems.

The form is that of Jenkins' schema junit-10, which GitLab and others read too. Advice is not among the cases, where a
green one would hide a worse measure and a red one would fail the build: it stands in the suite's output.
"""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree

from bench.gate.outputs.figures import counted_as, failed, plain, unclear
from bench.gate.result import Gate, Row, Side

_SUITE = "tokenwire gate"
_NO_TIME = "0"
"""Of a case: all are measured by one experiment, whose time is the suite's."""


def render(gate: Gate) -> bytes:
    """One suite in UTF-8. A regression is a failure, an inconclusive row is skipped, an invalid gate is an error.

    Where inconclusive was told to count as a failure, it is one here too.
    """
    invalid = gate.decision == "invalid"
    cases = [] if invalid else [_case(row, gate) for row in gate.rows if row.decides]
    if invalid or not cases:
        cases.insert(0, _verdict(gate))
    totals = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    seconds = f"{gate.seconds:.3f}"
    root = ElementTree.Element("testsuites", {"name": _SUITE, **totals, "time": seconds})
    skipped = str(sum(case.find("skipped") is not None for case in cases))
    # Schemas that know a timestamp want it without a zone.
    began = datetime.fromisoformat(gate.created)
    began = began.astimezone(UTC).replace(tzinfo=None) if began.tzinfo else began
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "name": _SUITE,
            **totals,
            "skipped": skipped,
            "time": seconds,
            "timestamp": began.isoformat(timespec="seconds"),
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(gate).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": plain(value)})
    suite.extend(cases)
    if said := _output(gate):
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(plain, said))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _verdict(gate: Gate) -> ElementTree.Element:
    """The one case of a gate that judged nothing."""
    case = ElementTree.Element("testcase", {"classname": "gate", "name": "verdict", "time": _NO_TIME})
    if gate.decision != "pass":
        tag = "error" if gate.decision == "invalid" else "skipped"
        _told(case, tag, gate.decision, " ".join(gate.reasons))
    return case


def _case(row: Row, gate: Gate) -> ElementTree.Element:
    where = ", ".join(part for part in (row.title, row.where) if part)
    attributes = {"classname": f"gate.{row.kind}", "name": plain(f"{row.name}: {where}"), "time": _NO_TIME}
    case = ElementTree.Element("testcase", attributes)
    if failed(row):
        _told(case, "failure", "regression", row.sentence)
    elif unclear(row):
        strict = gate.decision == "inconclusive" and gate.exit_code == 1
        _told(case, "failure" if strict else "skipped", "inconclusive", row.sentence)
    return case


def _told(case: ElementTree.Element, tag: str, kind: str, sentence: str) -> None:
    # Some readers show the attribute, some the text.
    ElementTree.SubElement(case, tag, {"type": kind, "message": plain(sentence)}).text = plain(sentence)


def _properties(gate: Gate) -> dict[str, str]:
    return {
        "decision": gate.decision,
        "tokenwire": gate.tokenwire,
        "size": gate.size,
        **_side(gate.base),
        **_side(gate.head),
        "blocks": str(gate.blocks),
    }


def _side(side: Side) -> dict[str, str]:
    told = {"": side.what, ".revision": side.revision, ".command": side.command}
    return {f"{side.name}{key}": value for key, value in told.items() if value}


def _output(gate: Gate) -> list[str]:
    worse = [f"Advice: {row.sentence}" for row in gate.rows if not row.decides and row.finding == "regression"]
    return [*gate.reasons, *filter(None, [counted_as(gate)]), *worse, *gate.notes, *gate.voids]
