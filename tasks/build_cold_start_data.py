"""The choice of cold-start examples as a Prefect task (see `tapo_core.stages.build_cold_start_data`)."""

from tapo_core.stages import build_cold_start_data as stage
from tasks.options import stage_task

build_cold_start_data = stage_task(stage.build_cold_start_data)
