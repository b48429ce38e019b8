"""What tells whether a run can be trusted: whole blocks, what the validity rules saw, servers that fell behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import validity
from bench.metrics.cautions import Caution, merge
from bench.metrics.summary import Arm, Check, OverCapacity

Facts = Mapping[str, Any]


def whole_blocks(trials: Sequence[Facts], scenario: Facts) -> set[int]:
    """The blocks with a trial of every arm."""
    arms: dict[int, set[str]] = {}
    for trial in trials:
        arms.setdefault(int(trial["block"]), set()).add(trial["arm"])
    return {block for block, there in arms.items() if there == set(scenario["arms"])}


def checks(trials: Sequence[Facts], scenario: Facts) -> list[Check]:
    """The worst that every rule saw in every phase, in the order of the rules."""
    found: dict[tuple[str, str], list[tuple[validity.Seen, str, int]]] = {}
    for trial in trials:
        arm, block = str(trial["arm"]), int(trial["block"])
        siblings = [other for other in trials if other["block"] == block and other is not trial]
        for seen in validity.seen(trial, scenario, siblings):
            found.setdefault((seen.rule, seen.phase), []).append((seen, arm, block))
    order = [rule.key for rule in validity.RULES]
    worst_of = []
    for (rule, phase), some in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        worst, arm, block = max(some, key=lambda one: one[0].seen)
        over = sum(seen.seen > seen.limit for seen, _, _ in some)
        worst_of.append(Check(rule, worst.title, phase, arm, block, worst.seen, worst.limit, worst.unit, over))
    return worst_of


def behind(found: Sequence[Caution], arms: Sequence[Arm]) -> list[OverCapacity]:
    """The servers that could not keep up, each with how many of its trials show it."""
    of = {arm.name: arm.trials for arm in arms}
    return [OverCapacity(one.phase, one.arm, one.trials, of[one.arm], one.text) for one in merge(found)]
