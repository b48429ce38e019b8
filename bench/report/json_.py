"""summary.json: every number of the report, and the schema that documents it.

The shipped schema is `schema()` in a file; `python -m bench.report.json_` prints it anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.metrics import Results, Summary
from bench.report.verdicts import given


def render(summary: Summary) -> bytes:
    """The results as indented JSON (RFC 8259), in UTF-8. An invalid run's verdicts are left out here too."""
    exported = {name: getattr(summary, name) for name in Results.__struct_fields__} | {"conclusions": given(summary)}
    return msgspec.json.format(msgspec.json.encode(exported), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of summary.json, from the types that write it."""
    made = msgspec.json.schema(Results)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokenwire summary",
        **_open(made),
    }


def _open(node: Any) -> Any:
    """Leave out the defaults, which only Python needs."""
    if isinstance(node, dict):
        return {k: _open(v) for k, v in node.items() if k != "default"}
    return [_open(v) for v in node] if isinstance(node, list) else node


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode())
