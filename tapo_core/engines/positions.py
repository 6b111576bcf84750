"""How long a sequence may be for a model: its positions, by config.json, worked out as vLLM does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapo_core.errors import UserError

_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
#: Kinds of scaled rotary positions whose model already states the scaled length.
_STATED = ("su", "longrope", "llama3", "default")


def positions_of(checkpoint: Path) -> int | None:
    """Positions of the model of a checkpoint; None if config.json does not say.

    Raises:
        UserError: config.json is missing or cannot be read.
    """
    file = checkpoint / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return positions(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions by the content of a config.json: the smallest number it gives, times the factor of its scaled rotary positions.

    >>> positions({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}})
    8192
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    given = [int(config[key]) for key in _KEYS if config.get(key) is not None]
    if not given:
        return None
    longest, factor = min(given), 1.0
    if "gemma3" not in str(config.get("model_type", "")):  # states the scaled length
        for scaling in _scalings(config):
            kind = scaling.get("rope_type", scaling.get("type", "default"))
            if kind in _STATED:
                continue
            factor = float(scaling.get("factor") or 1.0)
            if kind == "yarn":
                longest = int(scaling.get("original_max_position_embeddings") or longest)
    return int(longest * factor)


def _scalings(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings of rotary positions: those of the model, or of each kind of its layers."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parts = [part for part in found.values() if isinstance(part, Mapping)]
    return parts or [found]
