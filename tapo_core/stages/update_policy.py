"""Stage 6: one policy update on the selected trajectories, and a new policy version."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tapo_core.advantages import Normalised, Rewarded, decoupled_advantages
from tapo_core.correction import tokens_within
from tapo_core.engines.openrlhf_trainer import drop_optimizer_states
from tapo_core.engines.protocols import PolicyTrainer, TokenScores, TrainingTrajectory, UpdateReport
from tapo_core.ids import deterministic_id, tree_digest
from tapo_core.off_policy import Mismatch, measure
from tapo_core.records import (
    Advantage,
    AdvantageGroup,
    Correction,
    PolicyVersion,
    Rollout,
    RolloutKind,
    RolloutTokens,
    SelectionDecision,
    SubjectKind,
    TokenRole,
    TokenWeight,
    UpdateMetric,
    Verification,
)
from tapo_core.session import Session
from tapo_core.store import Record, StageCommit
from tapo_core.token_weights import ood_token_weights

STAGE = "update_policy"
_KINDS = {AdvantageGroup.ORIGINAL: SubjectKind.ROLLOUT, AdvantageGroup.CONSTRUCTED: SubjectKind.CONSTRUCTED}


@dataclass(frozen=True, slots=True)
class Member:
    """One selected trajectory before its update."""

    advantage: Normalised
    tokens: RolloutTokens
    n_untrained: int  #: leading response tokens without a loss

    @property
    def subject_id(self) -> str:
        """The rollout, or the correction."""
        return self.advantage.subject_id

    @property
    def constructed(self) -> bool:
        """Whether it is of the constructed group."""
        return self.advantage.group is AdvantageGroup.CONSTRUCTED


def update_policy(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Advantages, OTS weights, the optimizer steps, a published checkpoint, and the rows that say what was done.

    An iteration without a selected trajectory (everything mastered, or nothing reached) publishes the unchanged policy.

    Raises:
        IntegrityError: optimizer state on disk is not what was recorded.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    parent = session.policy_version(iteration - 1)
    members = batch_members(session, iteration)
    trainer = session.trainer_at(parent)
    scores = score_members(session, trainer, members)
    weights = {m.subject_id: token_weights(session, m, scores) for m in members}
    trajectories = [_trajectory(m, scores.get(m.subject_id), weights[m.subject_id]) for m in members]
    report = trainer.update(trajectories, session.seed(iteration, STAGE)) if trajectories else UpdateReport([], {})
    steps = report.steps
    logprobs = {subject_id: score.logprobs_T for subject_id, score in scores.items()} | report.old_logprobs_T
    mismatch, alarms = measure_mismatch(session, iteration, members, logprobs)
    policy_version_id = deterministic_id("policy_version", run=session.run_id, iteration=iteration)
    folder = session.folder / "policies" / f"{iteration:06d}"
    trainer.publish(folder, policy_version_id)
    version = PolicyVersion(
        policy_version_id=policy_version_id,
        run_id=session.run_id,
        iteration=iteration,
        parent_policy_version_id=parent.policy_version_id,
        checkpoint_path=str((folder / "hf").relative_to(session.folder)),
        checkpoint_digest=tree_digest(folder / "hf"),
        optimizer_path=str((folder / "deepspeed").relative_to(session.folder)),
        optimizer_digest=tree_digest(folder / "deepspeed"),
        optimizer_steps=parent.optimizer_steps + len(steps),
    )
    metrics = {(number, name): value for number, step in enumerate(steps) for name, value in step.values.items()}
    measured = {} if mismatch is None else asdict(mismatch)
    metrics |= {(-1, f"sampler_mismatch/{name}"): value for name, value in measured.items()}
    records: list[Record] = [version, *advantage_rows(session, iteration, members)]
    records += token_weight_rows(session, iteration, members, scores, weights)
    records += [
        UpdateMetric(session.run_id, iteration, policy_version_id, step, name, value)
        for (step, name), value in metrics.items()
    ]
    manifest = {
        "policy_version_id": policy_version_id,
        "checkpoint_digest": version.checkpoint_digest,
        "n_original": sum(not m.constructed for m in members),
        "n_constructed": sum(m.constructed for m in members),
        "n_steps": len(steps),
        "micro_batch_tokens": session.micro_batch_tokens,
        "sampler_mismatch": measured,
        "alarms": alarms,
    }
    commit = session.commit(STAGE, iteration, input_digest, manifest, records)
    # After the commit, so that the state a retry starts from is there until the retry is no longer needed.
    drop_optimizer_states(session.folder / "policies", session.config.update.keep_optimizer_states)
    return commit


def batch_members(session: Session, iteration: int) -> list[Member]:
    """The selected trajectories with their advantages, in an order that depends on ids alone."""
    redacted = session.redacted  # since they were selected
    selected = {d.subject_id for d in session.load(SelectionDecision, iteration) if d.selected}
    rewards = {v.subject_id: v.reward for v in session.load(Verification, iteration)}
    tokens = {
        row.subject_id: row for row in session.load(RolloutTokens, iteration) if row.role is not TokenRole.CORRECTION
    }
    rollouts = sorted(session.load(Rollout, iteration, kind=RolloutKind.TRAINING), key=lambda r: (r.query_id, r.k))
    place = {rollout.rollout_id: (rollout.query_id, rollout.k) for rollout in rollouts}
    corrections = sorted(session.load(Correction, iteration), key=lambda c: place[c.wrong_rollout_id])
    subjects = [(r.rollout_id, r.query_id) for r in rollouts if r.query_id not in redacted]
    original = _rewarded(subjects, selected, rewards)
    subjects = [(c.correction_id, c.query_id) for c in corrections if c.query_id not in redacted]
    constructed = _rewarded(subjects, selected, rewards)
    normalised = decoupled_advantages(original, constructed, session.config.advantage)
    by_id = {correction.correction_id: correction for correction in corrections}
    members = []
    for item in normalised:
        own, correction = tokens[item.subject_id], by_id.get(item.subject_id)
        members.append(Member(item, own, 0 if correction is None else _untrained(session, correction, own)))
    return members


def _untrained(session: Session, correction: Correction, tokens: RolloutTokens) -> int:
    """Leading tokens of a constructed trajectory that have no loss, as update.train_prefix and train_diagnosis say."""
    update = session.config.update
    if update.train_prefix:
        return 0
    prefix = correction.prefix_token_end or 0
    text, rest = correction.constructed_text, correction.correction
    if update.train_diagnosis or text is None or rest is None:
        return prefix
    # The diagnosis ends where the correction begins, which is all that follows it.
    return max(prefix, tokens_within(tokens.token_ids_T, len(text) - len(rest), session.chat.decode))


def _rewarded(
    subjects: Sequence[tuple[str, str]], selected: set[str], rewards: dict[str, float | None]
) -> list[Rewarded]:
    """Selected subjects that have a reward. (A selected one always has: unknown verdicts are never selected.)"""
    result = []
    for subject_id, query_id in subjects:
        reward = rewards.get(subject_id)
        if subject_id in selected and reward is not None:
            result.append(Rewarded(subject_id, query_id, reward))
    return result


def score_members(session: Session, trainer: PolicyTrainer, members: Sequence[Member]) -> dict[str, TokenScores]:
    """Subject id -> its scores under the policy before the update. Originals are not among them where the update is one step:
    nothing but the loss needs theirs, and the step's own forward pass has them.
    """
    chosen = [m for m in members if m.constructed or not session.config.update.one_step]
    scores = trainer.score([m.tokens.prompt_token_ids for m in chosen], [m.tokens.token_ids_T for m in chosen])
    return {member.subject_id: score for member, score in zip(chosen, scores, strict=True)}


def token_weights(session: Session, member: Member, scores: Mapping[str, TokenScores]) -> list[float]:
    """OTS weights on constructed trajectories, 0 on a prefix that is not trained on; 1 on originals."""
    if not member.constructed:
        return [1.0] * len(member.tokens.token_ids_T)
    own = scores[member.subject_id]
    weights = ood_token_weights(own.logprobs_T, own.entropies_T, session.config.token_weight)
    return [0.0] * member.n_untrained + weights[member.n_untrained :]


def _trajectory(member: Member, scores: TokenScores | None, weights_T: list[float]) -> TrainingTrajectory:
    """What the trainer needs of one trajectory. Tokens that are not trained on are a part of its prompt."""
    ids, begin, sampled = member.tokens.token_ids_T, member.n_untrained, member.tokens.logprobs_T
    return TrainingTrajectory(
        subject_id=member.subject_id,
        group=member.advantage.group,
        prompt_token_ids=[*member.tokens.prompt_token_ids, *ids[:begin]],
        response_token_ids_T=ids[begin:],
        old_logprobs_T=None if scores is None else scores.logprobs_T[begin:],
        advantage=member.advantage.value,
        weights_T=weights_T[begin:],
        sampled_logprobs_T=None if sampled is None or member.constructed else sampled[begin:],
    )


def advantage_rows(session: Session, iteration: int, members: Sequence[Member]) -> list[Advantage]:
    """The advantage of each member, with all that it was computed from."""
    rows = []
    for member in members:
        values = asdict(member.advantage)
        group = values.pop("group")
        rows.append(
            Advantage(
                run_id=session.run_id,
                iteration=iteration,
                subject_kind=_KINDS[group],
                advantage_group=group,
                **values,
            )
        )
    return rows


def token_weight_rows(
    session: Session,
    iteration: int,
    members: Sequence[Member],
    scores: Mapping[str, TokenScores],
    weights: Mapping[str, list[float]],
) -> list[TokenWeight]:
    """OTS weights of the constructed members, with the terms they come from."""
    rows = []
    for subject_id in (m.subject_id for m in members if m.constructed):
        own = scores[subject_id]
        rows.append(
            TokenWeight(session.run_id, iteration, subject_id, weights[subject_id], own.logprobs_T, own.entropies_T)
        )
    return rows


def measure_mismatch(
    session: Session, iteration: int, members: Sequence[Member], logprobs: Mapping[str, list[float]]
) -> tuple[Mismatch | None, list[str]]:
    """Sampler against trainer over the original members, and what is alarming about it, which is told of.

    `logprobs`: the trainer's, by subject id.
    """
    pairs = [
        (member.tokens.logprobs_T, logprobs[member.subject_id])
        for member in members
        if not member.constructed and member.tokens.logprobs_T is not None
    ]
    found = measure([sampled for sampled, _ in pairs], [scored for _, scored in pairs])
    alarms = [] if found is None else found.alarms(session.config.off_policy)
    for alarm in alarms:
        session.reporter.note(
            f"ALARM: iteration {iteration}: {alarm}. Look at model.dtype and sampler.top_p, or set off_policy.correction "
            "(docs/operate.md)"
        )
    return found, alarms
