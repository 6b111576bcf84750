"""Stage 4 as a Prefect task (see `tapo_core.stages.diagnose_and_correct`)."""

from tapo_core.stages import diagnose_and_correct as stage
from tasks.options import stage_task

diagnose_and_correct = stage_task(stage.diagnose_and_correct)
