"""What two versions of the same rows differ in: those that are stored, and those that were made again."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tapo_core.records import Rollout, Verification, VerificationOutcome
from tapo_core.store.tables import TABLES
from tapo_core.text import shortened
from tapo_core.verification.math import SYMBOLIC

#: Relative difference that another machine's last digits may make: in sums of float64, and in what is stored as float32.
_TOLERANCE, _TOLERANCE_FLOAT32 = 1e-9, 1e-5


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One value that came out otherwise, or one row that is on one side only (column None)."""

    table: str
    key: str
    column: str | None
    stored: str
    replayed: str


def differences_between(record_class: type[Any], stored: Sequence[Any], made: Sequence[Any]) -> list[Difference]:
    """The differences of two lists of one class's records, by key; columns that are measured (times) are not compared."""
    table = TABLES[record_class]

    def by_key(records: Sequence[Any]) -> dict[str, Any]:
        return {", ".join(f"{name}={getattr(record, name)}" for name in table.key): record for record in records}

    old, new = by_key(stored), by_key(made)
    found = []
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new:
            found.append(
                Difference(table.name, key, None, *("there" if key in side else "absent" for side in (old, new)))
            )
            continue
        if isinstance(old[key], Verification) and _out_of_limits(old[key], new[key]):
            continue
        for column in table.columns:
            name = column.name
            if column.measured:
                continue
            was, now = getattr(old[key], name), getattr(new[key], name)
            if not _same(was, now):
                found.append(Difference(table.name, key, name, shortened(repr(was), 80), shortened(repr(now), 80)))
    return found


def _out_of_limits(stored: Verification, replayed: Verification) -> bool:
    """Whether a worker ran into its limits, then or now: on another machine, at another time it may not."""
    return any(v.outcome is VerificationOutcome.UNKNOWN and v.tier.startswith(SYMBOLIC) for v in (stored, replayed))


def _same(stored: object, replayed: object) -> bool:
    """Equal, numbers up to what another machine's last digits may make."""
    if isinstance(stored, list) and isinstance(replayed, list):
        return len(stored) == len(replayed) and all(
            a == b or math.isclose(a, b, rel_tol=_TOLERANCE_FLOAT32, abs_tol=_TOLERANCE_FLOAT32)
            for a, b in zip(stored, replayed, strict=True)
        )
    if isinstance(stored, float) and isinstance(replayed, float):
        return math.isclose(stored, replayed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return stored == replayed


def first_token_difference(rollout: Rollout, stored: Sequence[int], again: Sequence[int]) -> Difference:
    """Where two lists of token ids of a rollout, which are not equal, part."""
    place = next(
        (i for i, (a, b) in enumerate(zip(stored, again, strict=False)) if a != b), min(len(stored), len(again))
    )
    return Difference(
        "rollout_tokens",
        f"subject_id={rollout.rollout_id}",
        f"token_ids_T[{place}]",
        *(str(ids[place]) if place < len(ids) else "end" for ids in (stored, again)),
    )
