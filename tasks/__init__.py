"""One Prefect task a stage. The work is in `tapo_core.stages`; here are retries, cache keys and names."""
