"""Stage 5 as a Prefect task (see `tapo_core.stages.filter_by_difficulty`)."""

from tapo_core.stages import filter_by_difficulty as stage
from tasks.options import stage_task

filter_by_difficulty = stage_task(stage.filter_by_difficulty)
