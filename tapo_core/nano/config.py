"""The settings of the built-in model and task."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal[1, 2, 3, 4, 5, 6]


class NanoConfig(BaseModel):
    """What `prepare` builds. Everything here goes into the digest under which the result is cached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Seed of weights, examples and problems.")
    families: tuple[Literal["chain", "equation"], ...] = Field(
        ("chain",), min_length=1, description="Task families that the one model learns."
    )
    levels: tuple[Level, ...] = Field((3,), min_length=1, description="Levels of difficulty, for every family.")
    n_train: int = Field(240, ge=1, description="Training queries.")
    n_held_out: int = Field(80, ge=1, description="Held-out queries; they share no problem with the training queries.")

    steps: int = Field(450, ge=1, description="Cold-start optimizer steps.")
    batch_size: int = Field(64, ge=2, description="Examples a step.")
    learning_rate: float = Field(6e-3, gt=0, description="Peak of the cosine schedule (AdamW).")
    slip_rate: float = Field(0.33, gt=0, lt=1, description="Share of the steps of an example attempt that are wrong.")
    notice_rate: float = Field(0.3, ge=0, lt=1, description="Share of the wrong steps that are noticed and made again.")
    construction_share: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="Share of examples of the pipeline's tasks: constructions and error location. 0 is the ablation without a "
        "cold start: a base model that solves problems and was never taught the tasks.",
    )
    threads: int = Field(
        2, ge=1, description="Cores of the cold start. Another number may change the weights in the last digits."
    )

    hidden_size: int = Field(96, ge=32, description="Width of the model.")
    n_layers: int = Field(3, ge=1)
    n_heads: int = Field(3, ge=1)
    n_kv_heads: int = Field(1, ge=1)
    ffn_size: int = Field(256, ge=32)

    @property
    def mix(self) -> list[tuple[str, int]]:
        """Every (family, level) pair."""
        return [(family, level) for level in self.levels for family in self.families]
