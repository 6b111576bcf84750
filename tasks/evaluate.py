"""Held-out evaluation as a Prefect task (see `tapo_core.stages.evaluate`)."""

from tapo_core.stages import evaluate as stage
from tasks.options import stage_task

evaluate = stage_task(stage.evaluate)
