"""Stage 4: the policy diagnoses and corrects its own wrong rollouts, each guided by a correct sibling."""

from collections import Counter
from dataclasses import dataclass

from tapo_core.correction import Construction, constructed_tokens, parse_construction
from tapo_core.engines.protocols import Sample, SampleRequest
from tapo_core.error_location import Location
from tapo_core.ids import deterministic_id, digest
from tapo_core.prompts import Template, load_template
from tapo_core.records import (
    Correction,
    ErrorLocation,
    FinishReason,
    ParseOutcome,
    PolicyVersion,
    Rollout,
    RolloutTokens,
    SubjectKind,
    TokenRole,
)
from tapo_core.session import Session
from tapo_core.stages.groups import candidates, draw_reference, load_groups
from tapo_core.stages.locate_error import error_location
from tapo_core.stages.verify import Written, counted, verify_texts
from tapo_core.store import Record, StageCommit

STAGE = "diagnose_and_correct"


@dataclass(frozen=True, slots=True)
class _Job:
    """One wrong rollout, the correct sibling drawn for it, and the location that hints at its error."""

    correction_id: str
    wrong: Rollout
    wrong_token_ids_T: list[int]
    plain_prompt: list[int]
    reference: Rollout
    hint: ErrorLocation | None
    seed: int
    request: SampleRequest | None  #: None when the prompt leaves no room for an answer


def diagnose_and_correct(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """One `Correction` for each candidate, whatever became of it; those that parse are verified like any rollout.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    settings = session.config.correction
    template = load_template(settings.mode, settings.template_name)
    policy = session.sampling_policy(iteration)
    jobs = _jobs(session, iteration, template)
    requests = [job.request for job in jobs if job.request is not None]
    samples: list[Sample] = []
    if requests:
        samples = session.sampler_at(policy).sample(
            requests, lambda n: session.reporter.advance(n, len(requests), "corrections")
        )
    drawn = iter(samples)
    records: list[Record] = []
    for job in jobs:
        output = None if job.request is None else next(drawn)
        records += _records(session, iteration, job, output, template, policy)
    corrections = [record for record in records if isinstance(record, Correction)]
    texts = [
        Written(SubjectKind.CONSTRUCTED, made.correction_id, made.query_id, made.constructed_text)
        for made in corrections
        if made.constructed_text is not None
    ]
    verdicts = verify_texts(session, iteration, texts)
    records += verdicts
    parses = Counter(correction.parse_outcome for correction in corrections)
    n_tokens = sum(len(sample.token_ids_T) for sample in samples)
    manifest = {
        "n_tokens": n_tokens,
        **{str(outcome): count for outcome, count in sorted(parses.items())},
        "verdicts": counted(verdicts),
    }
    return session.commit(STAGE, iteration, input_digest, manifest, records)


def _jobs(session: Session, iteration: int, template: Template) -> list[_Job]:
    settings = session.config.correction
    tokens = {t.subject_id: t for t in session.load(RolloutTokens, iteration, role=TokenRole.ROLLOUT)}
    hints = _hints(session, iteration) if "location" in template.fields else {}
    room = session.config.sampler.max_model_len - settings.max_new_tokens
    jobs = []
    for group in load_groups(session, iteration):
        for wrong in candidates(session, iteration, group):
            seed = session.seed(iteration, STAGE, wrong.query_id, wrong.k)
            reference = draw_reference(session, iteration, group, wrong)
            hint = hints.get(wrong.rollout_id)
            correction_id = deterministic_id(
                "correction", iteration=wrong.iteration, wrong=wrong.rollout_id, prompt=template.version
            )
            message = construction_message(session, template, wrong, reference, hint)
            prompt = session.prompt(message, correction_id)
            request = SampleRequest(prompt, seed, settings.max_new_tokens, settings.temperature, settings.top_p)
            own = tokens[wrong.rollout_id]
            jobs.append(
                _Job(
                    correction_id,
                    wrong,
                    own.token_ids_T,
                    own.prompt_token_ids,
                    reference,
                    hint,
                    seed,
                    request if len(prompt) <= room else None,
                )
            )
    return jobs


def _hints(session: Session, iteration: int) -> dict[str, ErrorLocation]:
    """Rollout id -> the location whose method comes first in the configured order, of those that found a step."""
    order = {str(method): place for place, method in enumerate(session.config.locate_error.methods)}
    found = [x for x in session.load(ErrorLocation, iteration) if x.step is not None and x.method in order]
    # The last one written under an id stays: the first method of the order.
    return {x.rollout_id: x for x in sorted(found, key=lambda x: -order[x.method])}


def construction_message(
    session: Session, template: Template, wrong: Rollout, reference: Rollout, hint: ErrorLocation | None
) -> str:
    """The user message that asks for a construction."""
    return template.render(
        query=session.queries[wrong.query_id].text,
        wrong=wrong.text,
        reference=reference.text,
        location=_hint_text(hint),
    )


def _hint_text(hint: ErrorLocation | None) -> str:
    if hint is None or hint.step is None:
        return ""
    number = hint.step + 1
    if hint.method == "arithmetic":
        return (
            f"A check of its arithmetic says that the first error is at or before step {number}: {hint.evidence}.\n\n"
        )
    return f"The first error seems to be step {number}: {hint.evidence}\n\n"


def _records(
    session: Session, iteration: int, job: _Job, output: Sample | None, template: Template, policy: PolicyVersion
) -> list[Record]:
    """The correction, its tokens, and, when it parsed, the error it points at, and its trajectory."""
    raw = "" if output is None else session.chat.decode(output.token_ids_T)
    if output is None:
        finish_reason = FinishReason.LENGTH
        parsed = Construction(
            ParseOutcome.PROMPT_TOO_LONG, "the prompt fills sampler.max_model_len; nothing was sampled"
        )
    else:
        finish_reason = output.finish_reason
        parsed = parse_construction(raw, finish_reason, job.wrong.text, job.reference.text, session.config.correction)
    records: list[Record] = []
    if output is not None and job.request is not None:
        records.append(
            RolloutTokens(
                subject_id=job.correction_id,
                run_id=session.run_id,
                iteration=iteration,
                role=TokenRole.CORRECTION,
                prompt_token_ids=job.request.prompt_token_ids,
                token_ids_T=output.token_ids_T,
                logprobs_T=output.logprobs_T,
            )
        )
    if parsed.prefix_steps is not None:
        found = Location("construction", parsed.prefix_steps - 1, parsed.analysis)
        records.append(error_location(session, job.wrong, job.reference, job.wrong_token_ids_T, found, policy))
    text, prefix_tokens = parsed.text, None
    if text is not None:
        kept = job.wrong_token_ids_T if parsed.prefix_steps is not None else []
        ids, prefix_tokens = constructed_tokens(
            text, kept, session.chat.encode, session.chat.decode, session.turn.end_token
        )
        records.append(
            RolloutTokens(
                subject_id=job.correction_id,
                run_id=session.run_id,
                iteration=iteration,
                role=TokenRole.CONSTRUCTED,
                prompt_token_ids=job.plain_prompt,
                token_ids_T=ids,
                logprobs_T=None,
            )
        )
    correction = Correction(
        correction_id=job.correction_id,
        run_id=session.run_id,
        iteration=iteration,
        query_id=job.wrong.query_id,
        wrong_rollout_id=job.wrong.rollout_id,
        reference_rollout_id=job.reference.rollout_id,
        error_location_id=None if job.hint is None else job.hint.error_location_id,
        policy_version_id=policy.policy_version_id,
        prompt_version=template.version,
        prompt_sha256=template.sha256,
        seed=job.seed,
        raw_output=raw,
        finish_reason=finish_reason,
        parse_outcome=parsed.outcome,
        parse_detail=parsed.detail,
        analysis=parsed.analysis,
        prefix_steps=parsed.prefix_steps,
        prefix_char_end=parsed.prefix_char_end,
        prefix_token_end=prefix_tokens,
        match_score=parsed.match_score,
        diagnosis=parsed.diagnosis,
        correction=parsed.correction,
        constructed_text=text,
        content_sha256=digest({"raw_output": raw, "constructed_text": text}),
    )
    return [correction, *records]
