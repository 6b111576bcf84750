"""The section of the configuration that says who judges the answers."""

from typing import Annotated, Literal

from pydantic import Field

from tapo_core.config_section import OPERATES, PositiveInt, Probability, Section


class VerifierConfig(Section):
    """Who says whether an answer is right (docs/verifier.md). The limits on an answer shape the trajectories: a higher one turns
    an unknown verdict, which is no reward, into a reward."""

    name: str = "math"
    """math, nano, code, or the name of a verifier that an installed package offers (entry point group tapo.verifiers)."""
    fallback: Literal["text", "none"] = "text"
    """Where the answer is looked for in a finished text without a box: text = in its end, as math-verify does; none = nowhere,
    such a text has no answer. (A text that was cut off has none without a box either way.)"""
    cpu_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 3.0
    """Processor time that a worker may spend on one answer; unknown after that. By the clock it may take ten times as long, or
    a busy machine would change verdicts."""
    memory_mib: Annotated[int, Field(ge=512)] = 1024
    """Memory (MiB) that a worker may take; unknown above that."""
    alarm_unknown_share: Annotated[Probability, OPERATES] = 0.02
    """A stage with a larger share of unknown verdicts says so in the log; the iteration's report has the counts."""
    run_model_code: Annotated[bool, OPERATES] = False
    """Must be true for the verifier code, which runs what the model wrote, in a sandbox; no other verifier does."""
    code_tests_seconds: PositiveInt = 10
    """Processor time (s) for each test of the verifier code."""
