"""Supervised fine-tuning as a Prefect task (see `tapo_core.stages.supervised_fine_tuning`)."""

from tapo_core.stages import supervised_fine_tuning as stage
from tasks.options import stage_task

supervised_fine_tuning = stage_task(stage.supervised_fine_tuning)
