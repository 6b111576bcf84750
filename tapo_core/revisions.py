"""The configurations of a run that exists: the one it began with, and every later one, as its store has them.

A *revision* is a configuration with other values of keys that shape trajectories. It applies from an iteration on, and each
iteration runs under one revision from its first stage to its evaluation. Keys that only operate the run have the values that the
newest command gave; what these were, and from when on, is recorded beside the revisions (table ``config_change``).
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.config import PURPOSES, TapoConfig
from tapo_core.config_file import parse_config, toml_value
from tapo_core.config_section import Kind
from tapo_core.errors import ConfigError, UserError
from tapo_core.records import ChangeKind, Config, ConfigChange, Run
from tapo_core.store import StoreReader
from tapo_core.store.connection import ledger_path

#: Keys that earlier versions of TAPO had, and that only operated a run: stored configurations may have them.
RETIRED: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key with two values, as plain JSON."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.old)} -> {_shown(self.new)}"

    @property
    def kind(self) -> Kind:
        """What the key does to a run."""
        return PURPOSES[self.key].kind


@dataclass(frozen=True, slots=True)
class Revision:
    """A configuration that iterations ran under, the first one being number 1."""

    number: int
    first_iteration: int
    digest: str  #: as it is stored with the commits of its iterations
    config: TapoConfig


@dataclass(frozen=True, slots=True)
class History:
    """All configurations of a run."""

    run: Run
    revisions: tuple[Revision, ...]
    changes: tuple[ConfigChange, ...]  #: by number
    newest: TapoConfig  #: of the last change

    @property
    def configurations(self) -> list[TapoConfig]:
        """The one that the run began with, and every later one."""
        return [self.revisions[0].config, *(_parsed(change.config_json, self.run.name) for change in self.changes)]

    @property
    def revision(self) -> Revision:
        """The newest revision."""
        return self.revisions[-1]

    def at(self, iteration: int) -> Revision:
        """The revision that an iteration runs under."""
        return next(one for one in reversed(self.revisions) if one.first_iteration <= iteration)


def read_history(reader: StoreReader, run_folder: Path) -> History | None:
    """The configurations of a run; None before its first commit.

    Raises:
        ConfigError: this version of TAPO does not know a configuration of the run any more.
        UserError, IntegrityError: the store cannot be read.
    """
    runs = reader.load(Run)
    if not runs:
        return None
    run = runs[0]
    (first,) = reader.load(Config, config_digest=run.config_digest)
    changes = sorted(reader.load(ConfigChange, run_id=run.run_id), key=lambda change: change.number)
    source = f"the configuration in {run_folder}"
    revisions = [Revision(1, 0, run.config_digest, _parsed(first.config_json, source))]
    revisions += [
        Revision(change.revision, change.first_iteration, change.config_digest, _parsed(change.config_json, source))
        for change in changes
        if change.kind is ChangeKind.REVISION
    ]
    newest = _parsed(changes[-1].config_json, source) if changes else revisions[0].config
    return History(run, tuple(revisions), tuple(changes), newest)


def stored_history(run_folder: Path) -> History | None:
    """The configurations of the run in a folder, from a snapshot; None if there is no run, or it has not begun.

    Raises:
        ConfigError, UserError, IntegrityError: see `read_history`.
    """
    if not ledger_path(run_folder).is_file():
        return None
    reader = StoreReader(run_folder, only=("run", "config", "config_change"))
    try:
        return read_history(reader, run_folder)
    finally:
        reader.release()


def _parsed(config_json: str, source: str) -> TapoConfig:
    tree = json.loads(config_json)
    for key in RETIRED:
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.get(section, {})
        place.pop(name, None)
    return parse_config(tree, source)


def changed_keys(old: TapoConfig, new: TapoConfig) -> list[ChangedKey]:
    """The keys that have other values, but for the run's name and place."""
    before, after = old.by_key, new.by_key
    return [
        ChangedKey(key, value, after[key])
        for key, value in before.items()
        if value != after[key] and PURPOSES[key].kind is not Kind.NAMES
    ]


def shaping(changes: Sequence[ChangedKey]) -> list[ChangedKey]:
    """Those of the keys that are part of the digest."""
    return [change for change in changes if change.kind.in_digest]


def combined(shape: TapoConfig, operate: TapoConfig) -> TapoConfig:
    """The keys that shape trajectories from one configuration, all others from another.

    Raises:
        ConfigError: they do not go together.
    """
    tree = shape.model_dump(mode="json")
    for key, value in operate.by_key.items():
        if not PURPOSES[key].kind.in_digest:
            _put(tree, key, value)
    return parse_config(tree, "the settings of an earlier iteration with those that operate the run now")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[name] = value


def refuse_fixed(changes: Sequence[ChangedKey], run_folder: Path) -> None:
    """Refuse new values of keys that a run cannot change.

    Raises:
        ConfigError: naming them, why, and the way to a run that has the new values.
    """
    found = [change for change in changes if change.kind is Kind.FIXED]
    if found:
        keys = "; ".join(f"{change} (it cannot be changed: {PURPOSES[change.key].why})" for change in found)
        raise ConfigError(f"{run_folder}: {keys}. Begin another run from its policy: {_fork(run_folder, found)}")


def refuse_other_settings(config: TapoConfig, history: History, run_folder: Path) -> None:
    """Refuse to go on with a run whose stored settings shape other trajectories than those that are given.

    Raises:
        ConfigError: naming each key with both values, and what can be done.
    """
    changes = shaping(changed_keys(history.revision.config, config))
    if not changes:
        return
    told = ", ".join(f"{change.key} is {_shown(change.old)} there and {_shown(change.new)} here" for change in changes)
    ways = (
        []
        if any(change.kind is Kind.FIXED for change in changes)
        else [f"to change the run from its next iteration on, {_command('resume', run_folder, changes)}"]
    )
    ways += ["to leave it as it is, choose another run.name", f"to begin from its policy, {_fork(run_folder, changes)}"]
    raise ConfigError(f"{run_folder}: a run of this name exists with other settings: {told}. {_sentence(ways)}")


def check_same_settings(config: TapoConfig) -> None:
    """See that a run of the configuration's name, if there is one, has its settings, before a model is built for it.

    Raises:
        ConfigError: see `refuse_other_settings`.
    """
    try:
        history = stored_history(config.run_folder)
    except ConfigError:
        raise
    except (
        UserError
    ):  # a store of an older version, which the start of the run brings up to date before it looks itself
        return
    if history is not None:
        refuse_other_settings(config, history, config.run_folder)


def _sentence(ways: Sequence[str]) -> str:
    text = "; ".join(ways)
    return text[0].upper() + text[1:]


def _command(verb: str, run_folder: Path, changes: Sequence[ChangedKey], *arguments: str) -> str:
    settings = [part for c in changes for part in ("--set", f"{c.key}={toml_value(c.new)}")]
    return shlex.join(["tapo", verb, str(run_folder), *arguments, *settings])


def _fork(run_folder: Path, changes: Sequence[ChangedKey]) -> str:
    # A fork begins with the run's policy, whatever model.path says.
    return _command("fork", run_folder, [c for c in changes if c.key != "model.path"], "NEW_NAME")


def _shown(value: Any) -> str:
    return "unset" if value is None else toml_value(value)


def as_json(changes: Sequence[ChangedKey]) -> list[Mapping[str, Any]]:
    """Changed keys as they are stored."""
    return [{"key": change.key, "old": change.old, "new": change.new} for change in changes]
