"""The id of an event, ``<completion id>:<ordinal>``: where to go on after a cut.

The ordinal counts all events of a stream from 0: role, content and stop chunks, usage, [DONE].
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_FORM: Final = re.compile(r"(.+):([0-9]{1,15})", re.DOTALL)


class EventId(NamedTuple):
    """An event of a completion; ``str()`` gives the text that goes over the wire."""

    completion_id: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.completion_id}:{self.ordinal}"


def split_event_id(text: str) -> EventId | None:
    """The parts of an event id; None for text of another form, the empty one included."""
    match = _FORM.fullmatch(text)
    return EventId(match[1], int(match[2])) if match else None
