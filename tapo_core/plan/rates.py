"""What was measured, where and how: `rates.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class Rate:
    """One measurement."""

    value: float
    unit: str
    device: str
    model: str
    command: str
    date: str
    note: str = ""


@cache
def rates() -> dict[str, Rate]:
    """All measurements, by name."""
    text = resources.files(__package__).joinpath("rates.toml").read_text(encoding="utf-8")
    return {name: Rate(**fields) for name, fields in tomllib.loads(text).items()}


def measured(name: str) -> Rate:
    """One of them."""
    return rates()[name]
