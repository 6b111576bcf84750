"""Stage 1 as a Prefect task (see `tapo_core.stages.sample`)."""

from tapo_core.stages import sample as stage
from tasks.options import stage_task

sample = stage_task(stage.sample)
