"""Evaluation as a Prefect task (see `tapo_core.stages.evaluate`)."""

from tapo_core.stages import evaluate as stage
from tasks.options import stage_task

evaluate = stage_task(stage.evaluate)
evaluate_further = stage_task(stage.evaluate_further, limits_of="evaluate")
