"""Stage 3 as a Prefect task (see `tapo_core.stages.locate_error`)."""

from tapo_core.stages import locate_error as stage
from tasks.options import stage_task

locate_error = stage_task(stage.locate_error)
