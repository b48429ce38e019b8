"""The emitter: golden values that no machine and no release may change, and properties of every schedule."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.emitter import (
    Bursty,
    Constant,
    Exponential,
    Fixed,
    Lognormal,
    LognormalLength,
    Profile,
    Uniform,
    completion_id,
    completion_key,
    natural_length,
    profile_hash,
    schedule,
)
from servers.profiles import PROFILES
from servers.vocabulary import SIZE, VOCABULARIES

SEEDS = st.integers(-(2**63), 2**63 - 1)
DELAYS = st.sampled_from([Constant(0), Constant(3.5), Exponential(12), Lognormal(20, 0.6), Bursty(4, 300, 20)])
LENGTHS = st.sampled_from([Fixed(1), Fixed(40), Uniform(1, 60), LognormalLength(30, 0.8, 90)])
PROFILE = st.builds(
    Profile,
    first=DELAYS,
    gap=DELAYS,
    length=LENGTHS,
    text=st.sampled_from(sorted(VOCABULARIES)),
    bundle=st.integers(1, 7),
    step_ms=st.sampled_from([0.0, 0.001, 7.3, 25.0]),
)


def test_golden_schedule() -> None:
    made = schedule(PROFILES["chat"], seed=42)
    assert (made.due_ns[:4], made.texts[:4], len(made.texts)) == GOLDEN_CHAT


def test_golden_digest_of_all_profiles() -> None:
    digest = hashlib.sha256()
    for name, profile in PROFILES.items():
        for seed in (0, 1, -1, 2**63 - 1):
            digest.update(repr((name, seed, tuple(schedule(profile, seed, choice=seed & 1)))).encode())
    assert digest.hexdigest()[:32] == GOLDEN_DIGEST


PURE = """
import hashlib
from servers import quantiles as q
from servers.vocabulary import VOCABULARIES
digest = hashlib.sha256(repr(VOCABULARIES).encode())
for table in (q.exponential(250), q.lognormal(20, 0.4), q.lognormal(250, 0.35), q.bursty(8, 400, 40), q.constant(2.5)):
    digest.update(repr(q.delays_us(table)).encode())
digest.update(repr(q.random_words(b"gaps", -1, 3, 100).tolist()).encode() + q.random_bytes(b"text", 7, 0, 50))
print(digest.hexdigest()[:32])
"""


def other_pythons() -> list[str]:
    """Interpreters of other versions found on this machine; the part that draws needs only the standard library."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(path) for path in sorted(versions.glob("3.1[1-9].*/bin/python"))]


@pytest.mark.parametrize("python", [sys.executable, *other_pythons()])
def test_golden_tables_on_every_python(python: str) -> None:
    assert subprocess.check_output([python, "-c", PURE], text=True).strip() == GOLDEN_PURE


@given(PROFILE, SEEDS, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_schedule(profile: Profile, seed: int, choice: int) -> None:
    made = schedule(profile, seed, choice)
    assert made == schedule(profile, seed, choice)
    assert len(made.due_ns) == len(made.texts) == len(made.tokens)
    assert sum(made.tokens) == natural_length(profile, seed, choice) >= 1
    assert all(tokens == profile.bundle for tokens in made.tokens[:-1])
    assert 1 <= made.tokens[-1] <= profile.bundle
    assert made.due_ns[0] >= 0
    assert all(a <= b for a, b in pairwise(made.due_ns))
    assert all(due % 1000 == 0 for due in made.due_ns)
    if profile.step_ms:
        assert all(due % profile.step_ns == 0 for due in made.due_ns)
        assert all(b - a >= profile.step_ns for a, b in pairwise(made.due_ns))


@given(PROFILE, SEEDS)
@settings(max_examples=25, deadline=None)
def test_bundling_changes_neither_text_nor_the_time_of_last_tokens(profile: Profile, seed: int) -> None:
    single = schedule(msgspec.structs.replace(profile, bundle=1), seed)
    made = schedule(profile, seed)
    assert "".join(made.texts) == "".join(single.texts)
    lasts = [sum(made.tokens[: i + 1]) - 1 for i in range(len(made.tokens))]
    assert made.due_ns == [single.due_ns[last] for last in lasts]


@given(PROFILE, SEEDS, st.integers(1, 80))
@settings(max_examples=25, deadline=None)
def test_a_limit_only_cuts(profile: Profile, seed: int, limit: int) -> None:
    whole, cut = schedule(profile, seed), schedule(profile, seed, limit=limit)
    assert sum(cut.tokens) == min(limit, sum(whole.tokens))
    assert "".join(whole.texts).startswith("".join(cut.texts))
    full = len(cut.texts) - 1
    assert (cut.due_ns[:full], cut.texts[:full]) == (whole.due_ns[:full], whole.texts[:full])


def test_choices_and_seeds_differ() -> None:
    profile = PROFILES["chat"]
    texts = ["".join(schedule(profile, seed, choice).texts) for seed in range(4) for choice in range(4)]
    assert len(set(texts)) == 16


@pytest.mark.parametrize(
    ("delay", "mean_ms"),
    [
        (Constant(5), 5),
        (Exponential(12), 12),
        (Lognormal(20, 0.5), 20 * 2.718281828**0.125),
        (Bursty(4, 300, 20), 18.8),
    ],
)
def test_delays_have_their_mean(delay: Constant | Exponential | Lognormal | Bursty, mean_ms: float) -> None:
    made = schedule(Profile(Constant(0), delay, Fixed(50_000)), 1)
    assert made.due_ns[-1] / 1e6 / 49_999 == pytest.approx(mean_ms, rel=0.03)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_vocabularies_fit_one_byte(kind: str) -> None:
    words = VOCABULARIES[kind]
    assert len(words) == SIZE
    assert all(words)
    assert not any("\x1f" in word for word in words)
    assert len(set(words)) > 240


@given(st.sampled_from(sorted(PROFILES)), SEEDS, st.integers(0, 2**20 - 1))
def test_completion_ids_are_read_back(name: str, seed: int, attempt: int) -> None:
    made = completion_id(name, seed, attempt)
    assert len(made) == 38
    assert completion_key(made) == (profile_hash(name), seed, attempt)


@pytest.mark.parametrize("text", ["", "chatcmpl-", "chatcmpl-" + "g" * 29, "cmpl-" + "0" * 29, "chatcmpl-" + "0" * 30])
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a completion id"):
        completion_key(text)


@pytest.mark.parametrize(
    ("json", "complaint"),
    [
        ('{"dist":"constant","ms":-1}', "ms must be a non-negative number"),
        ('{"dist":"bursty","fast_ms":1,"stall_ms":2,"run":0}', "run must be 1 to"),
        ('{"dist":"lognormal","median_ms":1,"sigma":-0.1}', "sigma must be"),
        ('{"dist":"constant","mean_ms":1}', "unknown field `mean_ms`"),
        ('{"dist":"gamma"}', "Invalid value 'gamma'"),
    ],
)
def test_bad_delays_are_refused_in_one_line(json: str, complaint: str) -> None:
    profile = f'{{"first":{json},"gap":{{"dist":"constant","ms":1}},"length":{{"dist":"fixed","tokens":1}}}}'
    with pytest.raises(msgspec.ValidationError, match=complaint) as caught:
        msgspec.json.decode(profile, type=Profile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", [{"text": "latin"}, {"bundle": 0}, {"step_ms": -1.0}, {"step_ms": 0.0001}])
def test_bad_profiles_are_refused(field: dict[str, object]) -> None:
    (name,) = field
    with pytest.raises(ValueError, match=name):
        Profile(Constant(1), Constant(1), Fixed(1), **field)  # type: ignore[arg-type]


GOLDEN_CHAT = ([303565000, 322755000, 349163000, 378644000], [" two", " consider", " consider", "Here"], 90)
GOLDEN_DIGEST = "a07f85e4d3550080e6014806ece9b17d"
GOLDEN_PURE = "68c893a558f18a7d0dd34f00dde16043"
