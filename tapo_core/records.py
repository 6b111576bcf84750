"""The records of a run: what one stage hands to the next, and what the store keeps.

One record class is one table of the store: same name (snake case), same fields. Records are frozen, hold plain data only
(no tensors) and are complete: every record carries the ids of its parents, so that any row can be traced by SQL.

Names of list fields whose axes matter carry a suffix: ``_T`` tokens, ``_K`` rollouts.
"""

from dataclasses import dataclass
from enum import StrEnum


class RolloutKind(StrEnum):
    """Why a rollout was sampled."""

    TRAINING = "training"  #: one of the K rollouts of a query in a training iteration
    EVALUATION = "evaluation"  #: sampled on a held-out query; never trained on


class FinishReason(StrEnum):
    """Why generation stopped."""

    STOP = "stop"  #: the policy ended its turn
    LENGTH = "length"  #: cut off at max_new_tokens: truncated, which is not the same as wrong


class VerificationOutcome(StrEnum):
    """What a verifier said. Only CORRECT and WRONG and NO_ANSWER carry a reward."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  #: nothing could be extracted: reward 0, told apart from a wrong answer
    UNKNOWN = "unknown"  #: the verifier could not decide: no reward, masked from its group


class ParseOutcome(StrEnum):
    """What became of one constructed output of the policy (paper: about 80-90% parse)."""

    PARSED = "parsed"
    TRUNCATED = "truncated"  #: cut off at max_new_tokens
    NO_TAG = "no_tag"  #: `<analysis>` or `<reconstruction>` missing, repeated or unclosed
    PREFIX_MISMATCH = "prefix_mismatch"  #: the reconstruction does not begin with the wrong rollout's own text
    NO_ERROR_LEFT = "no_error_left"  #: the whole wrong rollout was copied; nothing was corrected
    NO_DIAGNOSIS = "no_diagnosis"  #: after the prefix comes no diagnosis in words
    NO_CORRECTION = "no_correction"  #: after the diagnosis comes nothing
    PROMPT_TOO_LONG = "prompt_too_long"  #: the construction prompt left no room for an answer; nothing was sampled
    LEAKS_REFERENCE = "leaks_reference"  #: the text speaks of the reference solution it was shown, or copies it


class TokenRole(StrEnum):
    """What a row of `RolloutTokens` holds."""

    ROLLOUT = "rollout"  #: a sampled rollout under the plain query prompt
    CORRECTION = "correction"  #: the raw construction, as sampled under the construction prompt
    CONSTRUCTED = "constructed"  #: the constructed trajectory under the plain query prompt


class SubjectKind(StrEnum):
    """What a verdict, decision or advantage is about."""

    QUERY = "query"
    ROLLOUT = "rollout"
    CONSTRUCTED = "constructed"  #: the trajectory built by a `Correction`; its subject id is the correction id


class AdvantageGroup(StrEnum):
    """The two groups of decoupled advantage estimation."""

    ORIGINAL = "original"
    CONSTRUCTED = "constructed"


class OverlapKind(StrEnum):
    """How a training query is the same as another problem (see `decontamination`)."""

    EXACT = "exact"  #: the same words
    NEAR = "near"  #: the same numbers and nearly the same words, or the other problem stands whole in it


class ColdStartKind(StrEnum):
    """What an example of supervised fine-tuning teaches."""

    SFT = "sft"  #: the query, and a correct rollout
    IFT = "ift"  #: the construction prompt, and a construction that parsed and verified as correct


class ChangeKind(StrEnum):
    """What a change of a run's configuration does."""

    REVISION = "revision"  #: a key that shapes trajectories has another value, from an iteration on
    OPERATION = "operation"  #: only keys that operate the run have other values


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    run_id: str
    name: str  #: the folder's name under the output directory
    seed: int
    method: str  #: "tapo" or "grpo"
    config_digest: str
    tapo_version: str
    engine_versions: str  #: JSON object: package -> version
    created_at: str  #: ISO 8601 with an offset; read back in UTC


@dataclass(frozen=True, slots=True)
class Config:
    """A resolved configuration, once for each digest."""

    config_digest: str
    config_json: str  #: canonical JSON of every key, defaults included


@dataclass(frozen=True, slots=True)
class Turn:
    """What ends a turn in a run, and the date in its prompts: worked out once, when the run begins (see `engines.stops`)."""

    run_id: str
    stop_tokens: list[int]  #: ids of all tokens that end a turn, the end-of-turn token first
    stop_texts: str  #: JSON list of their texts, in the same order
    end_token: int  #: id of the end-of-turn token, which closes constructed trajectories
    end_named_by: str  #: "chat_template", "tokenizer", "generation_config" or "config"
    found_in: str  #: JSON object: each of these four -> ids of the stop tokens that it names
    template_clock: str  #: the time that the chat template sees: local, ISO 8601 without an offset


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A later configuration of a run. The one that it began with, revision 1, is in `Run` and `Config`."""

    change_id: str
    run_id: str
    number: int  #: 1, 2, ... over all changes of the run
    kind: ChangeKind
    revision: int  #: that is made, or that was in force: 2 is the first that is made
    first_iteration: int  #: the first iteration that it applies to
    after_commit: int  #: seq of the commit that it came after
    config_digest: str  #: of the keys that shape trajectories
    config_json: str  #: canonical JSON of every key, defaults included
    changes: str  #: JSON list of objects with key, old and new
    reason: str | None
    made_by: str  #: user and host
    created_at: str  #: ISO 8601 with an offset; read back in UTC


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A published checkpoint. Version 0 is the initial model; version n came out of iteration n, in a cold start version 1
    out of the fine-tuning."""

    policy_version_id: str
    run_id: str
    iteration: int
    parent_policy_version_id: str | None
    checkpoint_path: str  #: relative to the run's folder, or absolute for the initial model
    checkpoint_digest: str  #: `ids.tree_digest` of the Hugging Face folder
    optimizer_path: (
        str | None
    )  #: DeepSpeed checkpoint, relative to the run's folder; None for the initial model and after SFT
    optimizer_digest: str | None
    optimizer_steps: int  #: optimizer steps taken since version 0


@dataclass(frozen=True, slots=True)
class Query:
    """One problem. Example: text "Start with 7. Add 12.", gold "19", family "chain", level 1."""

    query_id: str
    run_id: str
    split: str  #: "train", "held_out", or the name of a benchmark in evaluation.datasets
    text: str
    gold: str
    family: str | None
    level: int | None
    source: str  #: file and row it was read from
    content_sha256: str

    def problem(self, instruction: str | None) -> str:
        """Its text without the instruction that was put after it on a line of its own (``data.instruction``)."""
        return self.text.removesuffix(f"\n{instruction}") if instruction else self.text


@dataclass(frozen=True, slots=True)
class QueryOverlap:
    """A training query that is a duplicate of a held-out query or of a benchmark's problem (see `decontamination`)."""

    overlap_id: str
    run_id: str
    query_id: str | None  #: the training query; None when it was dropped, and is not in the run
    source: str  #: file and row of the training query
    text: str  #: its text
    other_query_id: str  #: what it is a duplicate of
    other_split: str  #: "held_out", or the name of a benchmark
    kind: OverlapKind
    similarity: float  #: of their words, 0-100
    dropped: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer to a query, under the plain query prompt."""

    rollout_id: str
    run_id: str
    iteration: int
    query_id: str
    policy_version_id: str
    kind: RolloutKind
    k: int  #: index in its group, 0-based
    seed: int
    text: str  #: decoded, special tokens removed
    n_prompt_tokens: int
    n_tokens: int  #: generated tokens, the end-of-turn token included
    finish_reason: FinishReason
    temperature: float
    top_p: float
    max_new_tokens: int
    engine: str
    content_sha256: str
    again: int | None = (
        None  #: 2, 3, ...: of which further evaluation of its policy version; None: of the first, or of none
    )


@dataclass(frozen=True, slots=True)
class RolloutTokens:
    """Token ids and log-probabilities, apart from the texts so that queries over texts stay light."""

    subject_id: str  #: rollout_id, or correction_id
    run_id: str
    iteration: int
    role: TokenRole
    prompt_token_ids: list[int]
    token_ids_T: list[int]
    logprobs_T: list[float] | None  #: the sampler's log p(token), nats; None for CONSTRUCTED (never sampled as such)


@dataclass(frozen=True, slots=True)
class Verification:
    """One verdict of one verifier on one text."""

    verification_id: str
    run_id: str
    iteration: int
    subject_kind: SubjectKind
    subject_id: str
    outcome: VerificationOutcome
    reward: float | None  #: 1 or 0; None exactly when the outcome is unknown
    extracted_answer: str | None
    gold: str
    tier: str  #: the method that decided: "exact", "number", "symbolic", ...
    reason: str | None  #: why unknown
    verifier: str
    verifier_version: str
    milliseconds: float | None = None  #: by the clock; measured, so in no digest
    again: int | None = None  #: of which `tapo verify --again`; None: of the stage, which is the verdict that counts


@dataclass(frozen=True, slots=True)
class ErrorLocation:
    """Where one method sees the first error of a wrong rollout. `step` is None when it sees none."""

    error_location_id: str
    run_id: str
    iteration: int
    rollout_id: str
    method: str
    step: int | None  #: 0-based index of the first wrong step
    n_steps: int
    char_start: int | None  #: span of that step in the rollout's text, end exclusive
    char_end: int | None
    token_start: int | None  #: span of that step in the rollout's tokens, end exclusive
    token_end: int | None
    evidence: str | None  #: readable, for example "17 + 9 = 25, but it is 26"
    policy_version_id: str | None  #: that was asked; None for methods that only read
    reference_rollout_id: str | None  #: the correct sibling that was shown; None for methods that see none
    prompt_version: str | None
    prompt_sha256: str | None  #: of the template's text
    agreement: float | None  #: share of all votes that are for `step`
    votes: str | None  #: JSON list of what was sampled to find it, seeds included


@dataclass(frozen=True, slots=True)
class Correction:
    """One attempt of the policy to diagnose and correct one wrong rollout, guided by a correct sibling."""

    correction_id: str
    run_id: str
    iteration: int
    query_id: str
    wrong_rollout_id: str
    reference_rollout_id: str
    error_location_id: str | None  #: the location that gave the prompt its hint; None when there was none
    policy_version_id: str
    prompt_version: str
    prompt_sha256: str  #: of the template's text
    seed: int
    raw_output: str
    finish_reason: FinishReason
    parse_outcome: ParseOutcome
    parse_detail: str | None
    analysis: str | None
    prefix_steps: (
        int | None
    )  #: steps of the wrong rollout that were kept, the erroneous one included; None if none is kept
    prefix_char_end: int | None  #: end of the kept prefix in the wrong rollout's text
    prefix_token_end: int | None  #: end of the kept prefix in the wrong rollout's tokens
    match_score: float | None  #: similarity of transcription and kept prefix, 0-100
    diagnosis: str | None
    correction: str | None
    constructed_text: str | None  #: prefix + diagnosis + correction; None unless parsed
    content_sha256: str


@dataclass(frozen=True, slots=True)
class SelectionDecision:
    """Whether something may enter the batch, and why. Every query, rollout and construction of an iteration has one."""

    decision_id: str
    run_id: str
    iteration: int
    subject_kind: SubjectKind
    subject_id: str
    selected: bool
    reason: str  #: a word from `difficulty.Reason`
    n_correct: int | None  #: |P| of the query's group
    n_wrong: int | None  #: |N|
    n_unknown: int | None


@dataclass(frozen=True, slots=True)
class Advantage:
    """The advantage of one trajectory in one update, with all that it was computed from."""

    run_id: str
    iteration: int
    subject_kind: SubjectKind
    subject_id: str
    advantage_group: AdvantageGroup
    scope: str  #: what was normalised together: "query", "batch", "original", "merged"; "raw": nothing
    query_id: str
    group_size: int
    reward: float
    mean: float
    std: float
    value: float


@dataclass(frozen=True, slots=True)
class TokenWeight:
    """OTS weights of one constructed trajectory, with the terms they came from (before the update)."""

    run_id: str
    iteration: int
    subject_id: str
    weights_T: list[float]  #: 0 on a prefix that is not trained on
    logprobs_T: list[float]
    entropies_T: list[float]


@dataclass(frozen=True, slots=True)
class UpdateMetric:
    """One number about one update, in long form."""

    run_id: str
    iteration: int
    policy_version_id: str  #: the version that came out
    optimizer_step: int  #: step within the iteration, 0-based; -1 for a number about the whole update
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One metric of one policy version on one data set, with its confidence interval."""

    evaluation_id: str
    run_id: str
    iteration: int
    policy_version_id: str
    dataset: str
    metric: str  #: "pass@1", ...; all are listed in `statistics`
    value: float
    low: float
    high: float
    confidence: float
    interval_method: str
    n_queries: int
    n_samples: int  #: rollouts for each query
    temperature: float | None = None  #: of these; None in rows of older versions
    again: int | None = None  #: 2, 3, ...: of which further evaluation of the policy version; None: of the first


@dataclass(frozen=True, slots=True)
class ColdStartExample:
    """One example of supervised fine-tuning, made from what the initial model wrote. Its tokens are in `RolloutTokens`."""

    example_id: str
    run_id: str
    iteration: int  #: that of the policy version that is trained on it; the chunk is the subject's own iteration
    kind: ColdStartKind
    subject_id: str  #: rollout_id for SFT, correction_id for IFT
    query_id: str
    n_tokens: int  #: completion tokens, which are those with a loss
    content_sha256: str  #: of prompt and completion token ids


@dataclass(frozen=True, slots=True)
class Origin:
    """That another run made the policy a run starts from: it is a fork of it, or comes behind its cold start."""

    origin_id: str
    run_id: str
    policy_version_id: str  #: version 0 of this run
    parent_run_id: str
    parent_run_name: str
    parent_folder: str  #: where the other run was
    parent_iteration: int
    parent_policy_version_id: str  #: as the other run's store has it
    parent_config_digest: str
    parent_chain_digest: str  #: of the other run's commit that made the policy version


@dataclass(frozen=True, slots=True)
class Redaction:
    """That one row of another table lost texts of a query on purpose. (See `store.redaction`.)"""

    redaction_id: str
    run_id: str
    iteration: int  #: of the commit that the row came with
    query_id: str  #: whose texts they were
    reason: str
    table_name: str
    row_key: str  #: JSON list
    columns: str  #: JSON list of those that were redacted
    original_digest: str  #: of the row as it was committed
    redacted_digest: str  #: of the row as this redaction leaves it
