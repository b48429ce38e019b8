"""Records -> numbers, with pandas: `summarize` a run, or take one trial apart with `chunks_of` and `streams_of`."""

from bench.measures import FEWEST_BEYOND, KINDS, MEASURES, Kind, Measure
from bench.metrics.shapes import EDGES, SPECTRUM, Group, Shapes
from bench.metrics.summarize import summarize, values_of
from bench.metrics.summary import (
    Account,
    Arm,
    Ceiling,
    Check,
    Comparison,
    Conclusions,
    Counter,
    Incident,
    OverCapacity,
    Phase,
    Results,
    Summary,
    Unfinished,
    Value,
    Verdict,
    Void,
    WireBytes,
)
from bench.metrics.trial import PARTS, chunks_of, streams_of

__all__ = [
    "EDGES",
    "FEWEST_BEYOND",
    "KINDS",
    "MEASURES",
    "PARTS",
    "SPECTRUM",
    "Account",
    "Arm",
    "Ceiling",
    "Check",
    "Comparison",
    "Conclusions",
    "Counter",
    "Group",
    "Incident",
    "Kind",
    "Measure",
    "OverCapacity",
    "Phase",
    "Results",
    "Shapes",
    "Summary",
    "Unfinished",
    "Value",
    "Verdict",
    "Void",
    "WireBytes",
    "chunks_of",
    "streams_of",
    "summarize",
    "values_of",
]
