"""The runs of a study: every one with a whole configuration of its own, all of them checked before the first begins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from tapo_core.config import TapoConfig
from tapo_core.config_file import parse_config, read_toml
from tapo_core.errors import ConfigError, UserError
from tapo_core.ids import digest
from tapo_core.study.config import StudyConfig, run_name

#: What is no part of a run's settings: its name, place and length, and what only operates it (see `TapoConfig.digest`).
_NOT_SETTINGS = {"tracking", "store", "limits", "cluster"}


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a study."""

    family: str
    policy: str
    variant: str
    seed: int
    config: TapoConfig
    tree: Mapping[str, Any]  #: the configuration as plain values, without the defaults

    @property
    def name(self) -> str:
        """Of the run and its folder."""
        return self.config.run.name

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.config.run_folder

    @property
    def settings_digest(self) -> str:
        """Of what the study file and the base say about the run.

        Unlike the digest of the configuration it stays the same when a key with a default is added to TAPO.
        """
        tree = {key: value for key, value in self.tree.items() if key not in _NOT_SETTINGS and key != "run"}
        return digest([self.seed, tree])


def plan_runs(study: StudyConfig, source: str, over: Mapping[str, Any] | None = None) -> list[PlannedRun]:
    """The runs in the order in which they are made: all of the first seed come before those of the second, so that an
    interrupted study has whole comparisons.

    `over`: settings over everything else.

    Raises:
        ConfigError: naming `source`, the run and its bad keys; or a run is not evaluated where it is to be read.
    """
    common = _merged(read_toml(study.study.base), study.study.set)
    runs = []
    seeds = dict.fromkeys(
        seed for chosen in (study.study.seeds, *(v.seeds or () for v in study.variants.values())) for seed in chosen
    )
    for seed, family, policy, (variant, choice) in product(
        seeds, study.families, study.policies, study.variants.items()
    ):
        if (
            seed in (choice.seeds or study.study.seeds)
            and family in (choice.families or study.families)
            and policy in (choice.policies or study.policies)
        ):
            trees = [common, *(study.families[family].set, study.policies[policy].set, choice.set), over or {}]
            run = _planned(study, source, (family, policy, variant, seed), trees)
            runs.append(run)
    if not runs:
        raise ConfigError(f"{source}: no variant is run in any family with any policy")
    return runs


def _planned(
    study: StudyConfig, source: str, key: tuple[str, str, str, int], trees: Sequence[Mapping[str, Any]]
) -> PlannedRun:
    family, policy, variant, seed = key
    name = run_name(family, policy, variant, seed)
    merged: dict[str, Any] = {}
    for tree in trees:
        merged = _merged(merged, tree)
    steps, factor = study.study.steps, study.variants[variant].steps_factor
    own = {"name": name, "seed": seed, "iterations": steps, "output_dir": str(study.folder)}
    merged = _merged(merged, {"run": own})
    config = parse_config(merged, f"{source}: run {name}")
    if factor > 1.0:
        every = config.evaluation.every or steps
        if steps % every:
            raise ConfigError(
                f"{source}: run {name}: evaluation.every = {every} does not divide study.steps = {steps}, so that the run "
                "would not be evaluated there; change one of them"
            )
        merged = _merged(merged, {"run": {"iterations": every * math.ceil(steps * factor / every)}})
        config = parse_config(merged, f"{source}: run {name}")
    return PlannedRun(family, policy, variant, seed, config, merged)


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of another one over its own; tables are merged, all else is replaced."""
    result = dict(tree)
    for key, value in over.items():
        own = result.get(key)
        result[key] = _merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return result


def matching(runs: Sequence[PlannedRun], pattern: str | None) -> list[PlannedRun]:
    """The runs whose names match a pattern as files do (`chain-*-s0`); all when None.

    Raises:
        UserError: none does.
    """
    chosen = [run for run in runs if pattern is None or fnmatchcase(run.name, pattern)]
    if not chosen:
        raise UserError(f"--only {pattern}: no run is called like that; --list shows their names")
    return chosen
