"""The filter of a training set, a chunk of queries, as a Prefect task (see `tapo_core.stages.zpd_filter`)."""

from tapo_core.stages import zpd_filter as stage
from tasks.options import stage_task

zpd_filter = stage_task(stage.zpd_filter)
