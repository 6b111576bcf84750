"""A small run made by hand: one query, four rollouts, one correction, one update. Every number can be checked by eye.

Rollouts 0 and 1 are correct, 2 is wrong, 3 was cut off and its verdict is unknown. Rollout 2 is corrected with the help
of rollout 0; the constructed trajectory is correct. One rollout of version 1 is an evaluation, and has no answer.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tapo_core.ids import deterministic_id, digest, sha256_text
from tapo_core.records import (
    Advantage,
    AdvantageGroup,
    ColdStartExample,
    ColdStartKind,
    Config,
    Correction,
    ErrorLocation,
    Evaluation,
    FinishReason,
    ParseOutcome,
    PolicyVersion,
    Query,
    Rollout,
    RolloutKind,
    RolloutTokens,
    Run,
    SelectionDecision,
    SubjectKind,
    TokenRole,
    TokenWeight,
    UpdateMetric,
    Verification,
    VerificationOutcome,
)
from tapo_core.store import Record, StageCommit, StoreWriter
from tapo_core.store.connection import connect, database_path
from tapo_core.store.snapshot import READER_CONFIG

RUN_ID = deterministic_id("run", name="small")
CONFIG_DIGEST = sha256_text("{}")
QUERY_ID = deterministic_id("query", n=0)
VERSIONS = [deterministic_id("policy_version", iteration=n) for n in range(2)]
ROLLOUTS = [deterministic_id("rollout", iteration=1, k=k) for k in range(4)]
EVALUATION_ROLLOUT = deterministic_id("rollout", iteration=1, why="evaluation")
CORRECTION_ID = deterministic_id("correction", iteration=1, k=2)
ERROR_LOCATION_ID = deterministic_id("error_location", iteration=1, k=2)

WRONG_TEXT = "7 + 12 = 18. The answer is 18."
TOKEN_IDS = [4, 5]
RAW_OUTPUT = "<analysis>…</analysis><reconstruction>…</reconstruction>"
CONSTRUCTED_TEXT = "7 + 12 = 18. Wait, 7 + 12 is 19. The answer is 19."


def changed(record: Any, **fields: Any) -> Any:
    """A record with other values, right or wrong, in some fields."""
    return dataclasses.replace(record, **fields)


def make_query(query_id: str = QUERY_ID, text: str = "Start with 7. Add 12.") -> Query:
    return Query(
        query_id, RUN_ID, "train", text, "19", "chain", 1, "train.jsonl:1", digest({"text": text, "gold": "19"})
    )


def many_queries(stage: int, count: int) -> list[Record]:
    """Queries that no other stage has."""
    return [make_query(deterministic_id("query", stage=stage, row=row)) for row in range(count)]


def many_rows(stage: int, count: int) -> list[Record]:
    """Rows of several tables that no other stage has: what a small stage of a run writes."""
    rollouts = [
        make_rollout(
            k, f"{stage}.{k} says 19.", rollout_id=deterministic_id("rollout", iteration=1, stage=stage, row=k)
        )
        for k in range(count)
    ]
    tokens = [make_tokens(rollout.rollout_id) for rollout in rollouts]
    return [*many_queries(stage, count), *rollouts, *tokens]


def make_rollout(
    k: int,
    text: str,
    *,
    rollout_id: str | None = None,
    kind: RolloutKind = RolloutKind.TRAINING,
    finish_reason: FinishReason = FinishReason.STOP,
    policy_version_id: str = VERSIONS[0],
) -> Rollout:
    return Rollout(
        rollout_id=rollout_id or ROLLOUTS[k],
        run_id=RUN_ID,
        iteration=1,
        query_id=QUERY_ID,
        policy_version_id=policy_version_id,
        kind=kind,
        k=k,
        seed=100 + k,
        text=text,
        n_prompt_tokens=3,
        n_tokens=2,
        finish_reason=finish_reason,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=64,
        engine="nano",
        content_sha256=digest({"text": text, "token_ids": TOKEN_IDS}),
    )


def make_tokens(subject_id: str, role: TokenRole = TokenRole.ROLLOUT) -> RolloutTokens:
    logprobs = None if role is TokenRole.CONSTRUCTED else [-0.5, -0.25]
    return RolloutTokens(subject_id, RUN_ID, 1, role, [1, 2, 3], TOKEN_IDS, logprobs)


def make_verification(
    subject_id: str, outcome: VerificationOutcome, answer: str | None, kind: SubjectKind = SubjectKind.ROLLOUT
) -> Verification:
    unknown = outcome is VerificationOutcome.UNKNOWN
    return Verification(
        verification_id=deterministic_id("verification", iteration=1, subject=subject_id),
        run_id=RUN_ID,
        iteration=1,
        subject_kind=kind,
        subject_id=subject_id,
        outcome=outcome,
        reward=None if unknown else float(outcome is VerificationOutcome.CORRECT),
        extracted_answer=answer,
        gold="19",
        tier="number",
        reason="timeout" if unknown else None,
        verifier="exact",
        verifier_version="1",
    )


def make_decision(subject_kind: SubjectKind, subject_id: str, selected: bool, reason: str) -> SelectionDecision:
    decision_id = deterministic_id("decision", iteration=1, subject=subject_id)
    return SelectionDecision(decision_id, RUN_ID, 1, subject_kind, subject_id, selected, reason, 2, 1, 1)


def make_advantage(subject_kind: SubjectKind, subject_id: str, reward: float, mean: float, value: float) -> Advantage:
    constructed = subject_kind is SubjectKind.CONSTRUCTED
    group = AdvantageGroup.CONSTRUCTED if constructed else AdvantageGroup.ORIGINAL
    scope, size = ("batch", 1) if constructed else ("query", 3)
    return Advantage(RUN_ID, 1, subject_kind, subject_id, group, scope, QUERY_ID, size, reward, mean, 0.5, value)


def make_correction() -> Correction:
    return Correction(
        correction_id=CORRECTION_ID,
        run_id=RUN_ID,
        iteration=1,
        query_id=QUERY_ID,
        wrong_rollout_id=ROLLOUTS[2],
        reference_rollout_id=ROLLOUTS[0],
        error_location_id=ERROR_LOCATION_ID,
        policy_version_id=VERSIONS[0],
        prompt_version="micro_reflective_v1",
        prompt_sha256=sha256_text("prompt"),
        seed=7,
        raw_output=RAW_OUTPUT,
        finish_reason=FinishReason.STOP,
        parse_outcome=ParseOutcome.PARSED,
        parse_detail=None,
        analysis="The first sum is wrong.",
        prefix_steps=1,
        prefix_char_end=12,
        prefix_token_end=1,
        match_score=100.0,
        diagnosis="Wait, 7 + 12 is 19.",
        correction="The answer is 19.",
        constructed_text=CONSTRUCTED_TEXT,
        content_sha256=digest({"raw_output": RAW_OUTPUT, "constructed_text": CONSTRUCTED_TEXT}),
    )


@dataclass(frozen=True)
class Stage:
    """The arguments of one `commit_stage`."""

    iteration: int
    stage: str
    records: list[Record]


def start_records() -> list[Record]:
    return [
        Run(RUN_ID, "small", 1, "tapo", CONFIG_DIGEST, "0.1.0", "{}", "2026-01-02T03:04:05+00:00"),
        Config(CONFIG_DIGEST, "{}"),
        PolicyVersion(VERSIONS[0], RUN_ID, 0, None, "/models/start", sha256_text("v0"), None, None, 0),
        make_query(),
    ]


def sample_records() -> list[Record]:
    rollouts = [
        make_rollout(0, "7 + 12 = 19. The answer is 19."),
        make_rollout(1, "The answer is 19."),
        make_rollout(2, WRONG_TEXT),
        make_rollout(3, "7 and 12 and 7 and", finish_reason=FinishReason.LENGTH),
    ]
    return [*rollouts, *(make_tokens(rollout.rollout_id) for rollout in rollouts)]


def verify_records() -> list[Record]:
    outcome = VerificationOutcome
    return [
        make_verification(ROLLOUTS[0], outcome.CORRECT, "19"),
        make_verification(ROLLOUTS[1], outcome.CORRECT, "19"),
        make_verification(ROLLOUTS[2], outcome.WRONG, "18"),
        make_verification(ROLLOUTS[3], outcome.UNKNOWN, None),
    ]


def correct_records() -> list[Record]:
    return [
        make_decision(SubjectKind.QUERY, QUERY_ID, True, "eligible"),
        ErrorLocation(
            ERROR_LOCATION_ID,
            RUN_ID,
            1,
            ROLLOUTS[2],
            "policy",
            0,
            2,
            0,
            12,
            0,
            1,
            "7 + 12 = 18",
            policy_version_id=VERSIONS[0],
            reference_rollout_id=ROLLOUTS[0],
            prompt_version="locate_error_v1",
            prompt_sha256=sha256_text("locate"),
            agreement=0.5,
            votes='[{"seed":1,"step":0},{"seed":2,"step":null}]',
        ),
        make_correction(),
        make_tokens(CORRECTION_ID, TokenRole.CORRECTION),
        make_tokens(CORRECTION_ID, TokenRole.CONSTRUCTED),
        make_verification(CORRECTION_ID, VerificationOutcome.CORRECT, "19", SubjectKind.CONSTRUCTED),
    ]


def update_records() -> list[Record]:
    rollout, constructed = SubjectKind.ROLLOUT, SubjectKind.CONSTRUCTED
    return [
        *(make_decision(rollout, ROLLOUTS[k], True, "eligible") for k in range(3)),
        make_decision(rollout, ROLLOUTS[3], False, "unknown_verdict"),
        make_decision(constructed, CORRECTION_ID, True, "verified"),
        make_advantage(rollout, ROLLOUTS[0], 1.0, 0.5, 1.0),
        make_advantage(rollout, ROLLOUTS[1], 1.0, 0.5, 1.0),
        make_advantage(rollout, ROLLOUTS[2], 0.0, 0.5, -1.0),
        make_advantage(constructed, CORRECTION_ID, 1.0, 0.75, 0.5),
        TokenWeight(RUN_ID, 1, CORRECTION_ID, [0.5, 1.5, 4.0], [-1.0, -0.5, -0.25], [0.5, 0.25, 0.125]),
        PolicyVersion(
            VERSIONS[1], RUN_ID, 1, VERSIONS[0], "checkpoints/1", sha256_text("v1"), "optimizer/1", sha256_text("o1"), 4
        ),
        UpdateMetric(RUN_ID, 1, VERSIONS[1], -1, "loss", 0.125),
    ]


def evaluate_records() -> list[Record]:
    rollout = make_rollout(
        0, "?", rollout_id=EVALUATION_ROLLOUT, kind=RolloutKind.EVALUATION, policy_version_id=VERSIONS[1]
    )
    return [
        rollout,
        make_verification(EVALUATION_ROLLOUT, VerificationOutcome.NO_ANSWER, None),
        Evaluation(
            evaluation_id=deterministic_id("evaluation", iteration=1, n=1),
            run_id=RUN_ID,
            iteration=1,
            policy_version_id=VERSIONS[1],
            dataset="held_out",
            metric="pass@1",
            value=0.0,
            low=0.0,
            high=0.975,
            confidence=0.95,
            interval_method="wilson",
            n_queries=1,
            n_samples=1,
        ),
    ]


def cold_start_records() -> list[Record]:
    return [
        make_example(ColdStartKind.SFT, ROLLOUTS[0]),
        make_example(ColdStartKind.IFT, CORRECTION_ID),
    ]


def make_example(kind: ColdStartKind, subject_id: str) -> ColdStartExample:
    example_id = deterministic_id("cold_start_example", iteration=1, subject=subject_id)
    return ColdStartExample(example_id, RUN_ID, 1, kind, subject_id, QUERY_ID, 2, sha256_text(subject_id))


def stages() -> list[Stage]:
    """The stages of the run, in order. The last is of a run of another flow, for those who want its rows as well."""
    return [
        Stage(0, "start", start_records()),
        Stage(1, "sample", sample_records()),
        Stage(1, "verify", verify_records()),
        Stage(1, "correct", correct_records()),
        Stage(1, "update", update_records()),
        Stage(1, "evaluate", evaluate_records()),
        Stage(1, "cold_start", cold_start_records()),
    ]


def commit(run_folder: Path, stage: Stage, writer: StoreWriter | None = None) -> StageCommit:
    """Commit one stage as a pipeline would. `writer`: of the same folder; None: a new one."""
    return (writer or StoreWriter(run_folder, lock_seconds=5)).commit_stage(
        run_id=RUN_ID,
        iteration=stage.iteration,
        stage=stage.stage,
        config_digest=CONFIG_DIGEST,
        input_digest=sha256_text(stage.stage),
        manifest={"stage": stage.stage},
        records=stage.records,
    )


def build_small_run(run_folder: Path, n_stages: int = 6) -> Path:
    """Write the first stages of the small run and return its folder."""
    for stage in stages()[:n_stages]:
        commit(run_folder, stage)
    return run_folder


def open_file(run_folder: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection to a run's database file, which nobody may be writing."""
    return connect(database_path(run_folder), read_only=True, config=READER_CONFIG, lock_seconds=0.2)
