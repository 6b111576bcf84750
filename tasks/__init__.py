"""One Prefect task a stage. The work is in `tapo_core.stages`; here are retries, cache keys and names."""

from tasks.logs import make_flush_safe

make_flush_safe()  # before any flow runs: every flow imports its tasks
