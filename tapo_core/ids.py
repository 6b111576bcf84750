"""Deterministic ids, digests and seeds.

Everything random in a run is derived from ``(run seed, iteration, stage, id)`` and everything named in a run is
named after its content and place, so that a retry of a stage writes the same rows under the same ids.
"""

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from tapo_core.heartbeat import beat


def _plain(value: Any) -> Any:
    """What `canonical_json` cannot write by itself, as plain data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, uuid.UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text.

    Raises:
        TypeError: for a value without a canonical form.
        ValueError: for NaN or an infinity.
    """
    return _ENCODER.encode(value)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of UTF-8 text. Lone surrogates do not fail here; the store refuses them."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a value."""
    return sha256_text(canonical_json(value))


#: Hexadecimal digits at the end of an id that say its iteration.
_ITERATION_DIGITS = 6


def deterministic_id(kind: str, /, *, iteration: int = 0, **parts: Any) -> str:
    """A UUID (as text) made from a kind, an iteration and the named parts; equal parts give an equal id.

    It ends with the iteration, so that whoever has an id knows where to look for its row among millions.

    >>> deterministic_id("rollout", run="r", iteration=42, query="q", k=0)
    'c4a665fa-a9ec-8387-844a-6a31f200002a'
    """
    raw = bytearray.fromhex(digest({"kind": kind, "iteration": iteration, **parts})[:32])
    # Version 8 (RFC 9562): the bits are ours, and no reader takes them for a random or name-based UUID.
    raw[6] = (raw[6] & 0x0F) | 0x80
    raw[8] = (raw[8] & 0x3F) | 0x80
    raw[-_ITERATION_DIGITS // 2 :] = (iteration % 16**_ITERATION_DIGITS).to_bytes(_ITERATION_DIGITS // 2)
    return str(uuid.UUID(bytes=bytes(raw)))


def iteration_of(whole_id: str) -> int:
    """The iteration that an id of `deterministic_id` names. (One made before ids named it says anything.)"""
    return int(whole_id[-_ITERATION_DIGITS:], 16)


def derive_seed(run_seed: int, iteration: int, stage: str, *ids: str | int) -> int:
    """A 31-bit seed for one random draw, from ``(run seed, iteration, stage, id...)``.

    31 bits, because engines disagree about larger ones (vLLM, NumPy and torch accept different ranges).
    """
    return int(digest([run_seed, iteration, stage, *ids])[:8], 16) & 0x7FFFFFFF


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    beat()
    return found


def tree_digest(folder: Path) -> str:
    """Hex SHA-256 over the relative names and contents of all files below a folder."""
    files: Mapping[str, str] = {
        path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return digest(files)
