"""The profiles a server offers when its configuration names none."""

from __future__ import annotations

from servers.emitter import Bursty, Constant, Exponential, Fixed, Lognormal, LognormalLength, Profile, Uniform

PROFILES: dict[str, Profile] = {
    # A hosted chat model as users feel it: a quarter of a second to think, then some 50 tokens a second.
    "chat": Profile(Lognormal(250, 0.35), Lognormal(20, 0.4), LognormalLength(120, 0.6, 600)),
    # No delay at all: what the transport can carry.
    "instant": Profile(Constant(0), Constant(0), Fixed(128)),
    "short": Profile(Lognormal(120, 0.3), Lognormal(15, 0.3), Uniform(8, 32)),
    "long": Profile(Lognormal(400, 0.4), Lognormal(20, 0.4), LognormalLength(900, 0.4, 4000)),
    "cjk": Profile(Lognormal(250, 0.35), Lognormal(25, 0.4), LognormalLength(150, 0.5, 600), text="chinese"),
    "code": Profile(Lognormal(300, 0.35), Lognormal(12, 0.4), LognormalLength(300, 0.6, 1500), text="code"),
    # Memoryless gaps, and a stall of 0.4 s every 40 tokens: a busy server that preempts.
    "bursty": Profile(Exponential(250), Bursty(8, 400, 40), LognormalLength(150, 0.5, 600), text="mixed"),
    # Speculative decoding: four tokens a chunk.
    "bundled": Profile(Lognormal(250, 0.35), Lognormal(12, 0.4), LognormalLength(200, 0.5, 800), bundle=4),
    # Continuous batching: every stream's tokens fall on one grid of 25 ms.
    "lockstep": Profile(Lognormal(250, 0.35), Constant(25), LognormalLength(120, 0.6, 600), step_ms=25),
}
