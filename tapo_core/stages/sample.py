"""Stage 1: sample K rollouts of every query of the iteration from the current policy."""

from collections.abc import Sequence

from tapo_core.config import SamplerConfig
from tapo_core.engines.protocols import Sample, SampleRequest
from tapo_core.ids import deterministic_id, digest
from tapo_core.records import PolicyVersion, Query, Rollout, RolloutKind, RolloutTokens, TokenRole
from tapo_core.session import Session
from tapo_core.stages.endings import endings
from tapo_core.store import Record, StageCommit

STAGE = "sample"


def sample(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Rollouts with token ids, log-probabilities, seeds and policy version.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
        DataError: a query leaves no room for an answer.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    config = session.config
    queries = session.queries_of(iteration)
    policy = session.sampling_policy(iteration)
    records = sample_rollouts(
        session,
        policy,
        queries,
        RolloutKind.TRAINING,
        iteration,
        config.sampler.rollouts_per_query,
        config.sampler.temperature,
        seed_iteration=iteration,
    )
    rollouts = [record for record in records if isinstance(record, Rollout)]
    manifest = {
        "n_queries": len(queries),
        "n_rollouts": len(rollouts),
        "n_tokens": sum(rollout.n_tokens for rollout in rollouts),
        "policy_version_id": policy.policy_version_id,
        **endings(session, iteration, records),
    }
    return session.commit(STAGE, iteration, input_digest, manifest, records)


def sample_rollouts(
    session: Session,
    policy: PolicyVersion,
    queries: Sequence[Query],
    kind: RolloutKind,
    iteration: int,
    per_query: int,
    temperature: float,
    seed_iteration: int,
    again: int | None = None,
) -> list[Record]:
    """`Rollout` and `RolloutTokens` of every query, `per_query` of each, in order; nothing for no queries.

    Seeds depend on the run seed, `seed_iteration`, `kind`, query and k. `again`: the number of a further evaluation.
    """
    if not queries:
        return []
    settings = session.config.sampler
    places = [(query, k) for query in queries for k in range(per_query)]
    prompts = {query.query_id: session.prompt_of(query, settings.max_new_tokens) for query in queries}
    requests = [
        SampleRequest(
            prompt_token_ids=prompts[query.query_id],
            seed=session.seed(seed_iteration, f"sample/{kind}", query.query_id, k),
            max_new_tokens=settings.max_new_tokens,
            temperature=temperature,
            top_p=settings.top_p,
        )
        for query, k in places
    ]
    sampler = session.sampler_at(policy)
    samples = sampler.sample(requests, lambda n: session.reporter.advance(n, len(requests), "rollouts"))
    records: list[Record] = []
    for (query, k), request, drawn in zip(places, requests, samples, strict=True):
        rollout = _rollout(session, policy, query, kind, iteration, k, request, drawn, settings, sampler.name, again)
        tokens = RolloutTokens(
            subject_id=rollout.rollout_id,
            run_id=session.run_id,
            iteration=iteration,
            role=TokenRole.ROLLOUT,
            prompt_token_ids=request.prompt_token_ids,
            token_ids_T=drawn.token_ids_T,
            logprobs_T=drawn.logprobs_T,
        )
        records += [rollout, tokens]
    return records


def _rollout(
    session: Session,
    policy: PolicyVersion,
    query: Query,
    kind: RolloutKind,
    iteration: int,
    k: int,
    request: SampleRequest,
    drawn: Sample,
    settings: SamplerConfig,
    engine: str,
    again: int | None,
) -> Rollout:
    further = {} if again is None else {"again": again}
    text = session.chat.decode(drawn.token_ids_T)
    return Rollout(
        rollout_id=deterministic_id(
            "rollout", run=session.run_id, iteration=iteration, kind=kind, query=query.query_id, k=k, **further
        ),
        run_id=session.run_id,
        iteration=iteration,
        query_id=query.query_id,
        policy_version_id=policy.policy_version_id,
        kind=kind,
        k=k,
        seed=request.seed,
        text=text,
        n_prompt_tokens=len(request.prompt_token_ids),
        n_tokens=len(drawn.token_ids_T),
        finish_reason=drawn.finish_reason,
        temperature=request.temperature,
        top_p=request.top_p,
        max_new_tokens=settings.max_new_tokens,
        engine=engine,
        content_sha256=digest({"text": text, "token_ids": drawn.token_ids_T}),
        again=again,
    )
