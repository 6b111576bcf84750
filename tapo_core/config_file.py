"""Reading a configuration: a TOML file, overrides, and errors that name the file and every bad key."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tapo_core.config import SourceConfig, TapoConfig
from tapo_core.errors import ConfigError
from tapo_core.text import decoded

M = TypeVar("M", bound=BaseModel)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, source: str, model: type[BaseModel]) -> ConfigError:
    """One line that names the file, each bad key and what to do."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            section, prefix = model, ""
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


def parse_model(model: type[M], tree: Mapping[str, Any], source: str) -> M:
    """Check a plain tree of values.

    Raises:
        ConfigError: naming `source` and every bad key.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, source, model) from error


def parse_config(tree: Mapping[str, Any], source: str) -> TapoConfig:
    """Check a plain tree of values as the configuration of a run (see `parse_model`)."""
    return parse_model(TapoConfig, tree, source)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a plain tree.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(decoded(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_toml(tree: Mapping[str, Any]) -> list[str]:
    """The lines of a TOML file that `read_toml` reads back as the same tree: one dotted key a line.

    >>> write_toml({"run": {"name": "a", "seed": 1}, "method": "grpo"})
    ['run.name = "a"', 'run.seed = 1', 'method = "grpo"']
    """
    return [f"{key} = {value}" for key, value in _leaves(tree)]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values as TOML writes them."""
    leaves = []
    for name, value in tree.items():
        key = prefix + (name if _BARE_KEY.fullmatch(name) else json.dumps(name))
        if isinstance(value, Mapping) and value:
            leaves += _leaves(value, f"{key}.")
        else:
            leaves.append((key, toml_value(value)))
    return leaves


def toml_value(value: Any) -> str:
    """A value in one line of TOML: JSON, but for tables and characters beyond 16 bits."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {text}" for key, text in _leaves(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def load_config(path: Path, overrides: Sequence[str] = ()) -> TapoConfig:
    """Read a TOML file, apply ``section.key=value`` overrides, and check the result.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds unknown keys or impossible values.
    """
    tree = read_toml(path)
    for override in overrides:
        set_key(tree, override)
    return parse_config(tree, str(path))
