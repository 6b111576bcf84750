"""What a run will need, before anything starts: memory, tokens, disk, time. Pure arithmetic on a configuration (docs/plan.md).

`report.make_plan` is the whole of it; `tapo plan` prints it. Nothing here imports an engine.
"""
