"""The sections of the configuration that only operate a run. They are not part of the config digest: with other values it is the
same run.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tapo_core.catalog import catalog_problem
from tapo_core.config_section import Section

Stage = Literal[
    "sample",
    "verify",
    "locate_error",
    "diagnose_and_correct",
    "filter_by_difficulty",
    "update_policy",
    "evaluate",
    "zpd_filter",
    "build_cold_start_data",
    "supervised_fine_tuning",
]


class TrackingConfig(Section):
    """Curves for other tools. The store has them all (view training_curves)."""

    tensorboard: bool = False
    """Write each iteration's curves and evaluations as TensorBoard events into <run>/tensorboard. Needs the package
    tensorboard (extra "tensorboard")."""


class StoreConfig(Section):
    """Where else the rows go."""

    lake: str | None = None
    """Catalog of the lake that gets every commit as well (docs/store.md), for example "postgres:dbname=tapo host=127.0.0.1";
    without a password. Needs the packages of the extra "lake"."""

    @field_validator("lake")
    @classmethod
    def _catalog(cls, lake: str | None) -> str | None:
        problem = None if lake is None else catalog_problem(lake)
        if problem:
            raise ValueError(problem)
        return lake


class LimitsConfig(Section):
    """How often a stage is tried, and how long it may take (docs/operate.md)."""

    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Times that a stage is tried again after an error that may pass: an engine died, a file was locked, disk or memory did not
    suffice, the time was over. Other errors stop the run at once."""
    retry_seconds: Annotated[float, Field(ge=0.0, le=3600.0)] = 5.0
    """Pause before the first of these; three times as long before each further one, at most an hour."""
    timeout_minutes: Annotated[float, Field(gt=0.0)] = 720.0
    """A stage that takes longer is stopped, and tried again."""
    stage_timeout_minutes: dict[Stage, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Instead, for single stages: {sample = 30, update_policy = 60}."""
    no_progress_minutes: Annotated[float, Field(gt=0.0)] = 120.0
    """A process that makes no progress for so long writes the stacks of its threads into the run's stuck.txt and ends itself,
    so that the run can be resumed (docs/operate.md). Progress is a token, a micro-batch, a verdict, a byte of a checkpoint that
    is written. Starting an engine and reading a checkpoint give no sign of progress: neither may take longer."""

    verifier_workers: Annotated[int, Field(gt=0, le=256)] = 2
    """Processes of the symbolic verifier (docs/verifier.md); each takes up to verifier.memory_mib."""

    def timeout_seconds(self, stage: str) -> float:
        """How long one attempt of a stage may take."""
        minutes = {str(name): value for name, value in self.stage_timeout_minutes.items()}
        return 60.0 * minutes.get(stage, self.timeout_minutes)

    @property
    def pauses(self) -> list[float]:
        """Seconds before each further attempt."""
        return [min(3600.0, self.retry_seconds * 3**n) for n in range(self.retries)]
