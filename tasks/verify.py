"""Stage 2 as a Prefect task (see `tapo_core.stages.verify`)."""

from tapo_core.stages import verify as stage
from tasks.options import stage_task

verify = stage_task(stage.verify)
