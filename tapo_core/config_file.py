"""Reading a configuration: a TOML file, overrides, and errors that name the file and every bad key."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tapo_core.config import SourceConfig, TapoConfig
from tapo_core.errors import ConfigError


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, source: str) -> ConfigError:
    """One line that names the file, each bad key and what to do."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            section: type[BaseModel] = TapoConfig
            prefix = ""
            if item["loc"][:2] == ("evaluation", "datasets"):  # below it come names that are free
                section, prefix = SourceConfig, f"evaluation.datasets.{item['loc'][2]}."
            close = difflib.get_close_matches(key, _known_keys(section, prefix), n=1)
            problems.append(f"unknown key {key}" + (f" (did you mean {close[0]}?)" if close else ""))
        elif item["type"] == "missing":
            problems.append(f"key {key} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {message}" if key else message)
    return ConfigError(f"{source}: " + "; ".join(problems))


def set_key(tree: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in a tree; the value is TOML, or else taken as a string."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: write it as section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
    tree[name] = value


def parse_config(tree: Mapping[str, Any], source: str) -> TapoConfig:
    """Check a plain tree of values.

    Raises:
        ConfigError: naming `source` and every bad key.
    """
    try:
        return TapoConfig.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, source) from error


def load_config(path: Path, overrides: Sequence[str] = ()) -> TapoConfig:
    """Read a TOML file, apply ``section.key=value`` overrides, and check the result.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds unknown keys or impossible values.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error
    for override in overrides:
        set_key(tree, override)
    return parse_config(tree, str(path))
