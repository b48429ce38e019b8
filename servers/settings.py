"""What a server process is told, read from one JSON file and checked field by field."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from servers.emitter import Profile
from servers.faults import Fault
from servers.plant import Plant
from servers.profiles import PROFILES

EQUAL_WRITE_LIMIT = 65536
"""Bytes buffered before a write waits, on every arm in mode `equal`."""


class TLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files in PEM: the chain of certificates, and the key to the first."""

    certificate: str
    key: str


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a server process. None means what `mode` says: aligned arms, or the library's documented default."""

    mode: Literal["equal", "as-deployed"] = "equal"
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    compression: bool | None = None
    """permessage-deflate on WebSocket; SSE is never compressed."""
    heartbeat_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Seconds without a token after which SSE sends a comment; the ping interval of WebSocket. 0: none."""
    write_limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    access_log: bool | None = None
    resumable: tuple[str, ...] = ()
    """The models whose SSE answers to POST have `id:` lines; answers to GET always have."""
    api_key: str | None = None
    max_streams: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Streams at a time; 0: no limit."""
    profiles: Annotated[dict[str, Profile], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=PROFILES.copy)
    log: str | None = None
    plant: Plant | None = None
    """A slow-down or fault on purpose, on every stream of the process."""
    faults: dict[str, Fault] = {}
    """What goes wrong on purpose, by model."""
    tls: TLS | None = None
    """Speak TLS, and nothing else."""
    cpus: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)] | None = None

    @property
    def equal(self) -> bool:
        """Whether arms are aligned."""
        return self.mode == "equal"

    def compress(self, default: bool) -> bool:
        """Whether WebSocket offers compression, given the library's default."""
        return self.compression if self.compression is not None else default and not self.equal

    def heartbeat(self, default: float | None) -> float | None:
        """Seconds between heartbeats or None, given the library's default."""
        if self.heartbeat_s is None:
            return None if self.equal else default
        return self.heartbeat_s or None

    def limit(self, default: int) -> int:
        """Bytes buffered before a write waits, given the library's default."""
        if self.write_limit is not None:
            return self.write_limit
        return EQUAL_WRITE_LIMIT if self.equal else default

    @property
    def logs_access(self) -> bool:
        """Whether requests are logged to stderr."""
        return not self.equal if self.access_log is None else self.access_log


class SettingsError(Exception):
    """The settings cannot be used; the message names the file, the key, the value and what is allowed."""


def read_settings(path: str) -> Settings:
    """Read the JSON file `path`. Raises `SettingsError`."""
    try:
        raw = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must be a JSON object, not {_shown(raw)}")
    kinds = typing.get_type_hints(Settings, include_extras=True)
    for key, value in raw.items():
        if key not in kinds:
            raise SettingsError(f"{path}: {key}: no such key, allowed are {', '.join(kinds)}")
        # One value at a time, because the complaint about a whole object does not tell the value or the profile.
        of = {"profiles": Profile, "faults": Fault}.get(key)
        if of is not None and isinstance(value, dict):
            for name, one in value.items():
                _check(path, f"{key}.{name}", one, of)
        _check(path, key, value, kinds[key])
    return msgspec.convert(raw, Settings)


def _check(path: str, key: str, value: object, kind: object) -> None:
    """Raise `SettingsError` unless `value` converts to `kind`."""
    try:
        msgspec.convert(value, typing.cast(type, kind))
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        for step in where.rstrip("`").strip(".").split("."):
            if isinstance(value, dict) and step in value:
                key, value = f"{key}.{step}", value[step]
        if typing.get_origin(kind) is Literal:
            reason = f"must be one of {', '.join(typing.get_args(kind))}"
        raise SettingsError(f"{path}: {key} = {_shown(value)}: {reason}") from error


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
