"""Cold start: choose, among what the initial model wrote, the examples that it is fine-tuned on.

Two kinds (paper: 30k + 15k, from the base model's own rollouts):

* SFT: the plain query prompt, and a correct rollout's own tokens. It ended by itself: a cut-off one would teach not to end.
* IFT: the construction prompt, and the construction as it was sampled, tags and all. It parsed, and its trajectory is correct.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tapo_core.engines.protocols import TrainingExample
from tapo_core.errors import UserError
from tapo_core.files import publish_text
from tapo_core.ids import canonical_json, deterministic_id, digest
from tapo_core.prompts import load_template
from tapo_core.records import (
    ColdStartExample,
    ColdStartKind,
    Correction,
    ErrorLocation,
    FinishReason,
    ParseOutcome,
    Rollout,
    RolloutTokens,
    SubjectKind,
    TokenRole,
    VerificationOutcome,
)
from tapo_core.session import Session
from tapo_core.stages.diagnose_and_correct import construction_message
from tapo_core.stages.groups import Group, load_groups
from tapo_core.stages.verify import first_verdicts
from tapo_core.store import StageCommit

STAGE = "build_cold_start_data"

_ROLES = {ColdStartKind.SFT: TokenRole.ROLLOUT, ColdStartKind.IFT: TokenRole.CORRECTION}


def build_cold_start_data(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """A `ColdStartExample` for each chosen rollout and construction of all chunks.

    `iteration` is that of the policy version that will be trained on them. The choice does not depend on the run's name.

    Raises:
        UserError: there is no example of a kind that is wanted.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    settings = session.config.cold_start
    limits = {ColdStartKind.SFT: settings.n_sft, ColdStartKind.IFT: settings.n_ift}
    found: dict[ColdStartKind, list[ColdStartExample]] = {kind: [] for kind in limits}
    for chunk in range(1, session.n_chunks + 1):
        tokens = {(row.subject_id, row.role): row for row in session.load(RolloutTokens, chunk)}
        chosen = {
            ColdStartKind.SFT: _correct_rollouts(session, chunk),
            ColdStartKind.IFT: _constructions(session, chunk),
        }
        for kind, subjects in chosen.items():
            for subject_id, query_id in subjects:
                found[kind].append(
                    _example(session, iteration, kind, subject_id, query_id, tokens[subject_id, _ROLES[kind]])
                )
    records: list[ColdStartExample] = []
    for kind, limit in limits.items():
        if limit and not found[kind]:
            raise UserError(_why_none(session, kind))
        records += _draw(found[kind], limit, session.seed(iteration, STAGE, kind))
    manifest = {f"n_{kind}": sum(record.kind is kind for record in records) for kind in limits}
    manifest |= {f"n_{kind}_found": len(examples) for kind, examples in found.items()}
    manifest["n_tokens"] = sum(record.n_tokens for record in records)
    return session.commit(STAGE, iteration, input_digest, manifest, records)


def _correct_rollouts(session: Session, chunk: int) -> list[tuple[str, str]]:
    """(rollout, query) ids: at most sft_per_query different correct rollouts of each query, drawn where there are more."""
    chosen = []
    for group in load_groups(session, chunk):
        ended = _ended(group)
        limit = session.config.cold_start.sft_per_query
        if len(ended) > limit:
            seed = session.seed(chunk, f"{STAGE}/sft_per_query", group.query_id)
            ended = random.Random(seed).sample(ended, limit)
        chosen += [(rollout.rollout_id, rollout.query_id) for rollout in ended]
    return chosen


def _ended(group: Group) -> list[Rollout]:
    """The correct rollouts of a group that ended by themselves; of equal ones the first."""
    different: dict[str, Rollout] = {}
    for rollout in group.correct:
        if rollout.finish_reason is FinishReason.STOP:
            different.setdefault(rollout.content_sha256, rollout)
    return list(different.values())


def _constructions(session: Session, chunk: int) -> list[tuple[str, str]]:
    """(correction, query) ids of the constructions that parsed and verified as correct."""
    correct = {
        verdict.subject_id
        for verdict in first_verdicts(session, chunk, SubjectKind.CONSTRUCTED)
        if verdict.outcome is VerificationOutcome.CORRECT
    }
    parsed = session.load(Correction, chunk, parse_outcome=ParseOutcome.PARSED)
    redacted = session.redacted
    return [
        (row.correction_id, row.query_id)
        for row in parsed
        if row.correction_id in correct and row.query_id not in redacted
    ]


def _example(
    session: Session, iteration: int, kind: ColdStartKind, subject_id: str, query_id: str, tokens: RolloutTokens
) -> ColdStartExample:
    return ColdStartExample(
        example_id=deterministic_id("cold_start_example", run=session.run_id, iteration=iteration, subject=subject_id),
        run_id=session.run_id,
        iteration=iteration,
        kind=kind,
        subject_id=subject_id,
        query_id=query_id,
        n_tokens=len(tokens.token_ids_T),
        content_sha256=digest({"prompt_token_ids": tokens.prompt_token_ids, "token_ids": tokens.token_ids_T}),
    )


def _draw(examples: Sequence[ColdStartExample], limit: int, seed: int) -> list[ColdStartExample]:
    """At most `limit` of the examples. Drawn in the order of their content: ids differ from run to run."""
    ordered = sorted(examples, key=lambda example: example.content_sha256)
    return ordered if len(ordered) <= limit else random.Random(seed).sample(ordered, limit)


def _why_none(session: Session, kind: ColdStartKind) -> str:
    """Why there is no example of a kind, and what to do."""
    chunks = range(1, session.n_chunks + 1)
    if kind is ColdStartKind.SFT:
        n_rollouts = sum(len(group.rollouts_K) for chunk in chunks for group in load_groups(session, chunk))
        return (
            f"{session.folder}: none of {n_rollouts} rollouts is correct and ended by itself, so there is no SFT example; in a "
            "new run use easier queries (tapo zpd finds them), another model, a larger sampler.max_new_tokens, or "
            "cold_start.n_sft = 0 to do without"
        )
    outcomes = Counter(row.parse_outcome for chunk in chunks for row in session.load(Correction, chunk))
    if not outcomes:
        settings = session.config.filter
        return (
            f"{session.folder}: no query has at least {settings.n_pos} correct and {settings.n_neg} wrong rollouts, so no "
            "construction was asked for and there is no IFT example; in a new run use queries of another difficulty "
            "(tapo zpd finds them), lower filter.n_pos or filter.n_neg, or set cold_start.n_ift = 0 to do without"
        )
    told = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
    return (
        f"{session.folder}: no construction of {outcomes.total()} parsed and is correct ({told}), so there is no IFT example; in "
        "a new run use a model that follows the construction prompt, another correction.template, a larger "
        "correction.max_new_tokens, or cold_start.n_ift = 0 to do without"
    )


def training_examples(session: Session, iteration: int) -> list[TrainingExample]:
    """The chosen examples with their tokens, by chunk, kind and content.

    One that ended with another of the tokens that end a turn ends with the end-of-turn token instead: the model is to learn one.
    """
    chosen = _chosen(session, iteration)
    return [
        TrainingExample(tokens.prompt_token_ids, _ended_alike(session, tokens.token_ids_T))
        for chunk in range(1, session.n_chunks + 1)
        for _, tokens in _of_chunk(session, chosen, chunk)
    ]


def _ended_alike(session: Session, token_ids_T: list[int]) -> list[int]:
    *before, last = token_ids_T
    return [*before, session.turn.end_token if last in session.turn.stop_tokens else last]


_Chosen = dict[tuple[str, TokenRole], ColdStartExample]


def _chosen(session: Session, iteration: int) -> _Chosen:
    """The chosen examples by the key of their tokens, but those of queries that were redacted since."""
    redacted = session.redacted
    chosen = [row for row in session.load(ColdStartExample, iteration) if row.query_id not in redacted]
    return {(row.subject_id, _ROLES[row.kind]): row for row in chosen}


def _of_chunk(session: Session, chosen: _Chosen, chunk: int) -> list[tuple[ColdStartExample, RolloutTokens]]:
    """The chosen examples that were sampled in a chunk, with their tokens."""
    tokens = session.load(RolloutTokens, chunk)
    found = [(chosen[key], row) for row in tokens if (key := (row.subject_id, row.role)) in chosen]
    return sorted(found, key=lambda pair: (pair[0].kind, pair[0].content_sha256))


def publish_examples(session: Session, iteration: int) -> Path:
    """Write ``cold_start/examples.jsonl``, a view of the store for other trainers; returns its path.

    Columns: id, kind, query_id, subject_id, messages (one of the user) and completion (text without special tokens).
    """
    file = session.folder / "cold_start" / "examples.jsonl"
    publish_text(file, _rows(session, iteration))
    return file


def _rows(session: Session, iteration: int) -> Iterator[str]:
    template = load_template(session.config.correction.mode, session.config.correction.template_name)
    chosen = _chosen(session, iteration)
    for chunk in range(1, session.n_chunks + 1):
        rollouts = {row.rollout_id: row for row in session.load(Rollout, chunk)}
        corrections = {row.correction_id: row for row in session.load(Correction, chunk)}
        hints = {row.error_location_id: row for row in session.load(ErrorLocation, chunk)}
        for example, _ in _of_chunk(session, chosen, chunk):
            if example.kind is ColdStartKind.SFT:
                message = session.queries[example.query_id].text
                completion = rollouts[example.subject_id].text
            else:
                made = corrections[example.subject_id]
                hint = None if made.error_location_id is None else hints[made.error_location_id]
                wrong, reference = rollouts[made.wrong_rollout_id], rollouts[made.reference_rollout_id]
                message = construction_message(session, template, wrong, reference, hint)
                completion = made.raw_output
            yield canonical_json(
                {
                    "id": example.example_id,
                    "kind": example.kind,
                    "query_id": example.query_id,
                    "subject_id": example.subject_id,
                    "messages": [{"role": "user", "content": message}],
                    "completion": completion,
                }
            )
