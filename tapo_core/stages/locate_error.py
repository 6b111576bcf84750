"""Stage 3: locate the first error of every wrong rollout that is to be corrected."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.engines.protocols import SampleRequest
from tapo_core.error_location import METHODS, Attempt, Location, Means, Question, Reply
from tapo_core.ids import canonical_json, deterministic_id
from tapo_core.records import (
    ErrorLocation,
    PolicyVersion,
    Rollout,
    RolloutTokens,
    TokenRole,
    VerificationOutcome,
)
from tapo_core.session import Session
from tapo_core.stages.groups import candidates, draw_reference, load_groups
from tapo_core.steps import split_steps, token_end_of
from tapo_core.store import StageCommit
from tapo_core.verification.base import Question as Asked

STAGE = "locate_error"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A wrong rollout and the correct sibling that it is shown beside."""

    attempt: Attempt
    rollout: Rollout
    reference: Rollout


@dataclass
class _Sampled:
    """What the methods of an iteration had the policy sample, for the manifest."""

    n_tokens: int = 0


def locate_error(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """One `ErrorLocation` for each candidate and configured method, with evidence, votes and spans.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    policy = session.sampling_policy(iteration)
    chosen = _candidates(session, iteration)
    found: dict[str, Location] = {}
    records: list[ErrorLocation] = []
    sampled = _Sampled()
    for method in session.config.locate_error.methods:
        means = _means(session, policy, iteration, chosen, found, sampled)
        locations = METHODS[method]([c.attempt for c in chosen], means)
        for candidate, location in zip(chosen, locations, strict=True):
            if location.step is not None:
                found.setdefault(candidate.attempt.name, location)
            token_ids_T = candidate.attempt.token_ids_T
            records.append(
                error_location(session, candidate.rollout, candidate.reference, token_ids_T, location, policy)
            )
    manifest = {
        "n_tokens": sampled.n_tokens,
        "n_candidates": len(chosen),
        "n_located": len(found),
        **{f"located/{name}": _count(records, name) for name in session.config.locate_error.methods},
    }
    return session.commit(STAGE, iteration, input_digest, manifest, records)


def _count(records: Sequence[ErrorLocation], method: str) -> int:
    return sum(record.method == method and record.step is not None for record in records)


def _candidates(session: Session, iteration: int) -> list[_Candidate]:
    tokens = {row.subject_id: row for row in session.load(RolloutTokens, iteration, role=TokenRole.ROLLOUT)}
    chosen = []
    for group in load_groups(session, iteration):
        query = session.queries[group.query_id]
        for wrong in candidates(session, iteration, group):
            reference = draw_reference(session, iteration, group, wrong)
            attempt = Attempt(
                name=wrong.rollout_id,
                problem=query.problem(session.config.data.instruction),
                gold=query.gold,
                family=query.family,
                level=query.level,
                text=wrong.text,
                steps=split_steps(wrong.text),
                reference=reference.text,
                prompt_token_ids=tokens[wrong.rollout_id].prompt_token_ids,
                token_ids_T=tokens[wrong.rollout_id].token_ids_T,
            )
            chosen.append(_Candidate(attempt, wrong, reference))
    return chosen


def _means(
    session: Session,
    policy: PolicyVersion,
    iteration: int,
    chosen: Sequence[_Candidate],
    found: dict[str, Location],
    sampled: _Sampled,
) -> Means:
    """What a method may use: this run's policy, seeds and verifier."""
    rollouts = {candidate.attempt.name: candidate.rollout for candidate in chosen}

    def ask(questions: Sequence[Question]) -> list[Reply | None]:
        return _ask(session, policy, questions, sampled)

    def seed(attempt: Attempt, purpose: str, number: int) -> int:
        rollout = rollouts[attempt.name]
        return session.seed(iteration, f"{STAGE}/{purpose}", rollout.query_id, rollout.k, number)

    return Means(
        config=session.config.locate_error,
        max_new_tokens=session.config.sampler.max_new_tokens,
        ask=ask,
        seed=seed,
        is_correct=lambda attempt, text: _is_correct(session, rollouts[attempt.name], text),
        decode=session.chat.decode,
        found=found,
    )


def _is_correct(session: Session, rollout: Rollout, text: str) -> bool | None:
    query = session.queries[rollout.query_id]
    (verdict,) = session.verifier.verify([Asked(query.text, query.gold, text)])
    outcome = verdict.outcome
    return None if outcome is VerificationOutcome.UNKNOWN else outcome is VerificationOutcome.CORRECT


def _ask(
    session: Session, policy: PolicyVersion, questions: Sequence[Question], sampled: _Sampled
) -> list[Reply | None]:
    """Sample an answer to each question that leaves room for one."""
    limit = session.config.sampler.max_model_len
    requests: dict[int, SampleRequest] = {}
    for place, question in enumerate(questions):
        ids = list(question.token_ids) if question.message is None else session.chat.prompt(question.message)
        if len(ids) + question.max_new_tokens <= limit:
            requests[place] = SampleRequest(
                ids, question.seed, question.max_new_tokens, question.temperature, session.config.sampler.top_p
            )
    if not requests:
        return [None] * len(questions)
    samples = session.sampler_at(policy).sample(
        list(requests.values()), lambda n: session.reporter.advance(n, len(requests), "answers")
    )
    replies: list[Reply | None] = [None] * len(questions)
    sampled.n_tokens += sum(len(sample.token_ids_T) for sample in samples)
    for place, sample in zip(requests, samples, strict=True):
        replies[place] = Reply(session.chat.decode(sample.token_ids_T), sample.finish_reason)
    return replies


def error_location(
    session: Session,
    rollout: Rollout,
    reference: Rollout,
    token_ids_T: Sequence[int],
    found: Location,
    policy: PolicyVersion,
) -> ErrorLocation:
    """A location with its character and token spans. `reference` and `policy` are recorded where something was sampled."""
    steps = split_steps(rollout.text)
    chars: tuple[int | None, int | None] = (None, None)
    tokens: tuple[int | None, int | None] = (None, None)
    if found.step is not None:
        step = steps[found.step]
        chars = (step.char_start, step.char_end)
        tokens = (
            token_end_of(token_ids_T, rollout.text, step.char_start, session.chat.decode),
            token_end_of(token_ids_T, rollout.text, step.char_end, session.chat.decode),
        )
    return ErrorLocation(
        error_location_id=deterministic_id(
            "error_location", iteration=rollout.iteration, rollout=rollout.rollout_id, method=found.method
        ),
        run_id=session.run_id,
        iteration=rollout.iteration,
        rollout_id=rollout.rollout_id,
        method=found.method,
        step=found.step,
        n_steps=len(steps),
        char_start=chars[0],
        char_end=chars[1],
        token_start=tokens[0],
        token_end=tokens[1],
        evidence=found.evidence,
        policy_version_id=policy.policy_version_id if found.votes else None,
        reference_rollout_id=reference.rollout_id if found.prompt_version else None,
        prompt_version=found.prompt_version,
        prompt_sha256=found.prompt_sha256,
        agreement=found.agreement,
        votes=canonical_json(list(found.votes)) if found.votes else None,
    )
