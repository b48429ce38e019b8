"""Which stream a request asks for: new, or the rest of one that was begun; and what goes wrong with it."""

from __future__ import annotations

import secrets
from typing import TypeVar

from servers.emitter import Profile, completion_id, completion_key, profile_hash
from servers.faults import Fault
from servers.generation import Generation
from servers.payloads.chat_completions import ApiError, ChatRequest
from servers.trouble import Trouble, refuse

KNOWN = 16_384
"""Streams remembered for resuming and for counting attempts; the oldest are forgotten beyond that."""

K = TypeVar("K")
V = TypeVar("V")


class NothingToResume(ApiError):
    """The client has the last event already. WHATWG HTML 9.2.3: status 204 tells an EventSource to stop."""

    def __init__(self) -> None:
        super().__init__(204, "The stream had ended after the event given.", code="nothing_to_resume")


class Registry:
    """Makes generations of requests, and remembers what resuming needs: start times and attempt numbers."""

    def __init__(self, profiles: dict[str, Profile], faults: dict[str, Fault]) -> None:
        self._profiles = profiles
        self._faults = faults
        self._requests: dict[tuple[str, int], int] = {}
        """How often each stream of a model with a fault was asked for."""
        self._attempts: dict[tuple[int, int], int] = {}
        self._started: dict[str, tuple[int, int]] = {}

    def generation(self, request: ChatRequest, taken_up_ns: int, last_event_id: str | None) -> Generation:
        """Return what answers `request`.

        Raises `ApiError`: 404 for an unknown model, 400 or 204 when resuming, and what a fault makes of it.
        """
        profile = self._profiles.get(request.model)
        if profile is None:
            names = ", ".join(self._profiles)
            message = f"The model '{request.model}' does not exist. It is one of: {names}."
            raise ApiError(404, message, param="model", code="model_not_found")
        if last_event_id:
            return self._resumed(request, profile, taken_up_ns, last_event_id)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        trouble = self._trouble(request.model, seed)
        key = profile_hash(request.model), seed
        attempt = self._attempts.get(key, 0)
        _remember(self._attempts, key, attempt + 1)
        generation = Generation(completion_id(request.model, seed, attempt), request, profile, seed, taken_up_ns)
        generation.trouble = trouble
        self._begin(generation, taken_up_ns, profile.step_ns)
        return generation

    def _resumed(self, request: ChatRequest, profile: Profile, taken_up_ns: int, last_event_id: str) -> Generation:
        """Go on after `<completion id>:<ordinal>`: at the original times, or from now on if they are not known."""
        completion, _, digits = last_event_id.rpartition(":")
        try:
            hashed, seed, attempt = completion_key(completion)
            event = int(digits) if digits.isascii() and digits.isdigit() else -1
        except ValueError:
            event = -1
        if event < 0 or hashed != profile_hash(request.model) or request.seed not in (None, seed):
            message = f"'{last_event_id}' is not an event id '<completion id>:<ordinal>' of this model and seed."
            raise ApiError(400, message, param="last_event_id", code="invalid_event_id")
        trouble = self._trouble(request.model, seed)
        generation = Generation(completion, request, profile, seed, taken_up_ns)
        generation.trouble = trouble
        generation.first_event = event + 1
        if generation.first_event >= generation.events:
            raise NothingToResume
        known = self._started.get(completion)
        if known is not None:
            generation.start_ns, generation.created = known
            return generation
        # Another process began it. Its ids must not be given to new attempts of this one.
        key = hashed, seed
        _remember(self._attempts, key, max(self._attempts.get(key, 0), attempt + 1))
        self._begin(generation, taken_up_ns - generation.reached_ns(), profile.step_ns)
        return generation

    def _trouble(self, model: str, seed: int) -> Trouble | None:
        """Count a request for a stream, and return the fault that it meets. Raises `ApiError` where that refuses it."""
        fault = self._faults.get(model)
        if fault is None:
            return None
        request = self._requests.get((model, seed), 0)
        _remember(self._requests, (model, seed), request + 1)
        if not fault.happens(seed, request):
            return None
        refuse(fault)
        return Trouble(fault, seed, request)

    def _begin(self, generation: Generation, start_ns: int, step_ns: int) -> None:
        """Fix the start, on the grid that all streams in lockstep share."""
        generation.start_ns = -(-start_ns // step_ns) * step_ns if step_ns else start_ns
        _remember(self._started, generation.completion_id, (generation.start_ns, generation.created))


def _remember(known: dict[K, V], key: K, value: V) -> None:
    """Store, and forget the oldest entry when there are too many."""
    if len(known) >= KNOWN and key not in known:
        del known[next(iter(known))]
    known[key] = value
