"""gate.json: every number of a gate, and the schema that documents it.

The shipped schema, bench/gate/gate.schema.json, is `schema()` in a file; `python -m bench.gate.outputs.json_` prints
it anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.gate.result import Gate


def render(gate: Gate) -> bytes:
    """The gate as indented JSON (RFC 8259), in UTF-8."""
    return msgspec.json.format(msgspec.json.encode(_sayable(msgspec.to_builtins(gate))), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of gate.json, from the types that write it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokenwire gate",
        **msgspec.json.schema(Gate),
    }


def _sayable(node: Any) -> Any:
    """Replace what UTF-8 cannot say: names and messages of other programs may hold any bytes."""
    if isinstance(node, str):
        return node.encode(errors="replace").decode()
    if isinstance(node, dict):
        return {_sayable(key): _sayable(value) for key, value in node.items()}
    return [_sayable(value) for value in node] if isinstance(node, list) else node


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode())
