"""Stage 6 as a Prefect task (see `tapo_core.stages.update_policy`)."""

from tapo_core.stages import update_policy as stage
from tasks.options import stage_task

update_policy = stage_task(stage.update_policy)
