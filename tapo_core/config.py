"""The configuration of a run: frozen, strict, and stored with the run.

Unknown keys and impossible combinations fail when the file is loaded. The resolved configuration (defaults included) and its
digest are stored with every run. Defaults are the paper's values where the paper gives one (marked *paper*); everything
else is our documented choice.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tapo_core.config_cluster import ClusterConfig
from tapo_core.config_operations import LimitsConfig, StoreConfig, TrackingConfig
from tapo_core.config_section import NAMES, OPERATES, PositiveInt, Probability, Section, fixed, purposes
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.config_verifier import VerifierConfig
from tapo_core.ids import digest
from tapo_core.nano.config import NanoConfig
from tapo_core.prompts import SHORT

NANO = "nano"  #: in place of a path: the built-in model or data, made from the [nano] section

_READ = fixed("the run's queries were read with it and are in its store")
_PREPARES = fixed("it is for the flow that prepares a run, and no stage of training reads it")


class RunConfig(Section):
    """What the run is called and how far it goes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"), NAMES]
    """Name of the run; its folder is <output_dir>/<name>."""
    output_dir: Annotated[Path, NAMES] = Path("runs")
    """Folder that holds the runs. Relative to the working directory."""
    seed: Annotated[int, Field(ge=0, lt=2**31), fixed("every draw of the run was derived from it")] = 0
    """Every random draw of the run is derived from it."""
    iterations: Annotated[PositiveInt, OPERATES] = 30
    """Train until this many iterations are done; raise it to train a finished run further."""


class ModelConfig(Section):
    """The initial policy: any Hugging Face causal language model with a chat template."""

    path: str = NANO
    """Folder of a Hugging Face checkpoint (safetensors), or "nano"."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of sampling and training."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Passed to the chat template, for example enable_thinking = false for Qwen3."""


class ColumnsConfig(Section):
    """What the columns of a data set are called. Other columns are ignored."""

    problem: str = "problem"
    answer: str = "answer"
    """The gold answer."""
    family: str | None = None
    """Kept with the query, like the level. None = the column "family", if there is one."""
    level: str | None = None
    """A whole number, or a text that ends in one, such as Level 5; anything else is no level. None = the column "level", if
    there is one."""
    answer_pattern: str | None = None
    """Regular expression with one group: the gold answer is what the group finds in the answer column, first match. For
    GSM8K: '#### (.+)'. A row without a match is bad."""

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"not a regular expression ({error})") from error
            if groups != 1:
                raise ValueError(
                    f"{groups} groups in it; put parentheses around the answer, and (?:...) around the rest"
                )
        return pattern


class DataConfig(Section):
    """Where queries come from (docs/data.md): a file of JSON lines, a Parquet file, a folder that `datasets` can read, or
    hf:owner/name on the Hugging Face Hub."""

    train: Annotated[str, _READ] = NANO
    """A path, path:split, hf:owner/name, hf:owner/name:split, hf:owner/name/config:split; or "nano"."""
    held_out: Annotated[str, _READ] = NANO
    """Like train."""
    columns: Annotated[ColumnsConfig, _READ] = ColumnsConfig()
    """Of train and, unless it has its own, of held_out; not applied to "nano"."""
    held_out_columns: Annotated[ColumnsConfig | None, _READ] = None
    """Of held_out, where its columns are called otherwise: a table with the keys of data.columns."""
    skip_bad_rows: Annotated[bool, _READ] = False
    """Whether bad rows of train and held_out are left out and counted; a row whose prompt is too long is one. false: bad rows
    stop the run before it begins. A benchmark is read whole or not at all."""
    decontaminate: Annotated[Literal["report", "drop", "off"], _READ] = "report"
    """What becomes of training queries that are duplicates of held-out queries or benchmark problems: stored in table
    query_overlap (report), and left out of the run (drop); off = not looked for."""
    queries_per_iteration: PositiveInt = 48
    instruction: Annotated[str, _READ] = ""
    """Put after every query, on a line of its own; for example: Put the final answer within \\boxed{}."""


class SamplerConfig(Section):
    """Stage 1, sample."""

    engine: Literal["vllm", "hf"] = "vllm"
    """vllm is the engine; hf (transformers generate) is slow and exists to check the other."""
    rollouts_per_query: Annotated[int, Field(ge=2)] = 8
    """K. *paper*: 8"""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: PositiveInt = 128
    max_model_len: PositiveInt = 1024
    kv_cache_gib: Annotated[float, Field(gt=0.0), OPERATES] = 1.0
    """CPU only: memory of vLLM's key-value cache, GiB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0), OPERATES] = 0.5
    """GPU only: share of the device's memory that vLLM may take beside the trainer."""
    tensor_parallel_size: Annotated[PositiveInt, OPERATES] = 1
    max_num_seqs: Annotated[PositiveInt, OPERATES] = 512
    probe_sequences: Annotated[PositiveInt, OPERATES] = 8
    """Sequences whose sampled log-probabilities (of 32 tokens each) are recomputed with transformers from the published
    checkpoint whenever the engine takes new weights; four times as many the first time."""
    probe_tolerance: Annotated[float | Literal["measured"], OPERATES] = "measured"
    """Largest mean absolute difference of these log-probabilities (nats) that is accepted; a larger one stops the run.
    "measured": the bound follows from what was measured when the run began (docs/operate.md)."""

    @field_validator("probe_tolerance", mode="before")
    @classmethod
    def _nats_or_measured(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "measured" and not (is_number and value > 0):
            raise ValueError('write a number of nats above 0, or "measured"')
        return value


class LocateErrorConfig(Section):
    """Stage 3, locate error. Each method leaves its own row for each candidate."""

    methods: tuple[Literal["arithmetic", "task", "policy", "continuation"], ...] = ("arithmetic",)
    """arithmetic checks equations exactly; task knows the rules of the built-in tasks; policy asks the policy itself, beside a
    correct sibling; continuation samples on from before and after each step near what an earlier method found. The first method
    that finds a step gives the construction its hint. The construction's own finding is always stored as method
    "construction"."""
    template: str = SHORT["locate_error"]
    """policy: prompt template, a file of tapo_core/prompts without its suffix."""
    votes: PositiveInt = 5
    """policy: times it is asked about each candidate."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.7
    max_new_tokens: PositiveInt = 64
    continuations: PositiveInt = 8
    """continuation: samples of each prefix."""
    continuation_temperature: Annotated[float, Field(gt=0.0)] = 1.0
    window: Annotated[int, Field(ge=0)] = 1
    """continuation: steps on either side of the earlier finding that are checked as well."""


class CorrectionConfig(Section):
    """Stage 4, diagnose and correct. Off when method = "grpo"."""

    mode: Literal["micro_reflective", "full_reconstruction"] = "micro_reflective"
    """micro_reflective keeps the wrong rollout up to its error; full_reconstruction, the paper's ablation, discards it: the
    constructed trajectory is a whole new solution."""
    template: str | None = None
    """Prompt template: a file of tapo_core/prompts without its suffix. Its name and digest are stored with every row.
    None: the one that the built-in model is taught for the mode."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: PositiveInt = 256
    min_prefix_match: Annotated[float, Field(ge=0.0, le=100.0)] = 85.0
    """Least similarity (rapidfuzz ratio, 0-100) of the transcribed prefix and the wrong rollout's own text."""
    max_copied_words: Annotated[int, Field(ge=0)] = 0
    """A correction with more words than this in a row from the reference rollout copies it (parse outcome leaks_reference).
    0 = any may be: where a problem has one short solution, as the built-in ones have, copying cannot be told from solving."""

    @property
    def template_name(self) -> str:
        """The template that is used."""
        return self.template or SHORT[self.mode]


class FilterConfig(Section):
    """Stage 5, filter by difficulty: difficulty-aware candidate selection (DCS)."""

    n_pos: PositiveInt = 2
    """A query is eligible iff at least this many of its rollouts are correct. *paper*: 2"""
    n_neg: PositiveInt = 4
    """... and at least this many are wrong. *paper*: 4"""
    m_max: PositiveInt = 4
    """At most this many wrong rollouts of a query are corrected. *paper*: 4"""
    scope: Literal["construction", "batch"] = "construction"
    """What an ineligible query loses: its constructions only, or its place in the batch as well (unstated in the paper)."""
    require_correct: bool = False
    """Train only on constructed trajectories that verify as correct."""


class AdvantageConfig(Section):
    """Decoupled advantage estimation (DAE)."""

    constructed_scope: Literal["query", "batch", "original", "merged", "raw"] = "batch"
    """What constructed rewards are normalised with: the query's constructions, all constructions of the iteration, or the
    mean and std of the query's original group (unstated in the paper); "merged" is the ablation with one group for both;
    "raw" normalises nothing: the advantage is the reward, 1 or 0."""
    std_floor: Annotated[float, Field(ge=0.0)] = 0.0
    """The std is at least this; keeps a rare failure from dominating a nearly constant group."""
    eps: Annotated[float, Field(ge=0.0)] = 1e-6
    """Added to the std. A group without variance has advantage 0 whatever eps is."""


class TokenWeightConfig(Section):
    """OOD token suppression (OTS)."""

    enabled: bool = True
    policy: Literal["behaviour", "current"] = "behaviour"
    """Whose log-probabilities and entropies give the weights: the snapshot that sampled, once; or the policy as it is at each
    optimizer step (unstated in the paper; the same for the first step)."""
    min_weight: Annotated[float, Field(gt=0.0)] = 0.01
    """*paper*: 0.01"""
    max_weight: Annotated[float, Field(gt=0.0)] = 10.0
    """*paper*: 10.0"""


class SourceConfig(Section):
    """A data set: written as its path alone, or as a table with path and columns."""

    path: str
    """Like data.train."""
    columns: ColumnsConfig = ColumnsConfig()

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if not isinstance(value, Mapping | cls):
            raise ValueError("write a path, or a table: {path = ..., columns = {...}}")
        return value


class EvaluationConfig(Section):
    """Evaluation before, during and after training: pass@k, cons@k, DSR, ERR, lengths."""

    every: Annotated[int, Field(ge=0)] = 10
    """Evaluate after every so many iterations, and always before the first and after the last; 0 = only then."""
    queries: PositiveInt = 200
    """The first so many held-out queries."""
    datasets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")], SourceConfig] = Field(
        default_factory=dict
    )
    """Benchmarks to evaluate on beside the held-out queries, whole: name = a place like data.train, or a table with path and
    columns. Examples: aime24 = "benchmarks/aime24.jsonl"; math500 = {path = "hf:HuggingFaceH4/MATH-500:test"}."""
    samples: PositiveInt = 4
    """Rollouts per query."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    resamples: PositiveInt = 2000
    """Bootstrap resamples for the interval; problems are the unit that is resampled."""


class ZpdConfig(Section):
    """The filter of a training set before training (`tapo zpd`): keep what is neither too hard nor too easy for the model."""

    samples: PositiveInt = 8
    """Rollouts per query."""
    low: Probability = 0.125
    """Least accuracy of a query that is kept. *paper*: 0.125"""
    high: Probability = 0.875
    """Largest accuracy of a query that is kept. *paper*: 0.875"""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0


class ColdStartConfig(Section):
    """Examples for supervised fine-tuning, made from the initial model's own rollouts (`tapo cold-start`)."""

    chunks: Annotated[int, Field(ge=0)] = 0
    """Sample at most so many chunks of data.queries_per_iteration training queries; 0 = every query once."""
    sft_per_query: PositiveInt = 1
    """At most so many different correct rollouts of one query become examples."""
    n_sft: Annotated[int, Field(ge=0)] = 30000
    """At most so many examples of a query and a correct rollout; 0 = none of this kind. *paper*: 30000"""
    n_ift: Annotated[int, Field(ge=0)] = 15000
    """At most so many examples of a construction prompt and its construction; 0 = none of this kind. *paper*: 15000"""


class SftConfig(Section):
    """Supervised fine-tuning on the cold-start examples. The paper states none of this: all are our choices. Adam's betas,
    the weight decay, LoRA, and what spares memory (zero_stage, offload, gradient_checkpointing, score_chunk_tokens) are those of
    [update]."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    """Peak rate. Usual for models of some billion parameters; the built-in one wants a hundred times as much."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to zero along a cosine, or constant."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Optimizer steps of linear warm-up, for the reason given at update.warmup_steps."""
    epochs: PositiveInt = 2
    """Passes over the examples, each in an order of its own."""
    batch_size: PositiveInt = 64
    """Examples in one optimizer step; the last of an epoch may have fewer."""
    micro_batch_tokens: Annotated[PositiveInt, OPERATES] = 16384
    """Padded tokens in one forward and backward pass. It does not change the gradient."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0


class TapoConfig(Section):
    """Everything about one training run."""

    method: Annotated[Literal["tapo", "grpo"], fixed("the run is stored and compared as a run of this method")] = "tapo"
    """grpo is the same flow with constructions off."""
    run: RunConfig
    model: Annotated[ModelConfig, fixed("the run's policies and prompts were made from it")] = ModelConfig()
    data: DataConfig = DataConfig()
    sampler: SamplerConfig = SamplerConfig()
    locate_error: LocateErrorConfig = LocateErrorConfig()
    correction: CorrectionConfig = CorrectionConfig()
    filter: FilterConfig = FilterConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    token_weight: TokenWeightConfig = TokenWeightConfig()
    verifier: VerifierConfig = VerifierConfig()
    update: UpdateConfig = UpdateConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    evaluation: Annotated[EvaluationConfig, OPERATES] = EvaluationConfig()
    tracking: Annotated[TrackingConfig, OPERATES] = TrackingConfig()
    store: Annotated[StoreConfig, OPERATES] = StoreConfig()
    limits: Annotated[LimitsConfig, OPERATES] = LimitsConfig()
    cluster: Annotated[ClusterConfig, OPERATES] = ClusterConfig()
    zpd: Annotated[ZpdConfig, _PREPARES] = ZpdConfig()
    cold_start: Annotated[ColdStartConfig, _PREPARES] = ColdStartConfig()
    sft: Annotated[SftConfig, _PREPARES] = SftConfig()
    nano: Annotated[NanoConfig, fixed("the built-in model and problems were made from it")] = NanoConfig()

    @model_validator(mode="after")
    def _combinations(self) -> "TapoConfig":
        k = self.sampler.rollouts_per_query
        if self.method == "tapo" and self.filter.n_pos + self.filter.n_neg > k:
            raise ValueError(
                f"filter.n_pos + filter.n_neg = {self.filter.n_pos + self.filter.n_neg} is more than "
                f"sampler.rollouts_per_query = {k}: no query could ever be eligible"
            )
        if self.cluster.weight_transfer == "direct" and self.sampler.engine != "vllm":
            raise ValueError('cluster.weight_transfer = "direct" needs sampler.engine = "vllm"')
        taken = {"train", "held_out"} & set(self.evaluation.datasets)
        if taken:
            raise ValueError(f"evaluation.datasets.{min(taken)}: the name is taken; call the benchmark something else")
        if self.token_weight.min_weight > self.token_weight.max_weight:
            raise ValueError("token_weight.min_weight is above token_weight.max_weight")
        methods = self.locate_error.methods
        if len(set(methods)) < len(methods):
            raise ValueError("locate_error.methods names a method twice")
        if methods[:1] == ("continuation",):
            raise ValueError(
                "locate_error.methods: continuation checks what an earlier method found; put one before it"
            )
        if self.zpd.low > self.zpd.high:
            raise ValueError("zpd.low is above zpd.high")
        if self.cold_start.n_sft == self.cold_start.n_ift == 0:
            raise ValueError("cold_start.n_sft and cold_start.n_ift are both 0: there would be no examples")
        longest = max(self.sampler.max_new_tokens, self.correction.max_new_tokens, self.locate_error.max_new_tokens)
        if longest >= self.sampler.max_model_len:
            raise ValueError(
                f"max_new_tokens = {longest} leaves no room for a prompt in sampler.max_model_len = "
                f"{self.sampler.max_model_len}"
            )
        return self

    @property
    def by_key(self) -> dict[str, Any]:
        """The value of every key, as plain JSON. Example: ``{"method": "tapo", "run.name": "a", ...}``."""
        return key_values(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the keys that shape the trajectories (see `config_section`)."""
        return digest({key: value for key, value in self.by_key.items() if PURPOSES[key].kind.in_digest})

    @property
    def run_folder(self) -> Path:
        """The folder that holds all of the run."""
        return self.run.output_dir / self.run.name


#: What each key is for.
PURPOSES = dict(purposes(TapoConfig))


def key_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every key of a configuration that is a plain tree."""
    found = {}
    for key in PURPOSES:
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found
