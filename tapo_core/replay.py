"""Replay: every derived value of a run, computed again from what is stored, by the very stages that made it.

The stages run on a session whose engines answer from the store (the same prompt and seed give the recorded tokens) and whose
commits are caught instead of written. What they make is then held against what the store has: prompts, seeds and texts;
verdicts; error locations by methods that read, and votes as they were cast; parsed constructions; decisions; advantages; OTS
weights (from the stored log-probabilities and entropies); evaluations. What only an engine can make (sampled tokens,
log-probabilities, weights of a policy) is taken as given here: `resample` samples some of it anew.

What is about a redacted query is left out, and so is what was computed from texts of several queries when one of them is: the
evaluation of its data set, and the choice of cold-start examples. Advantages and weights need no text.
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tapo_core.assets import Assets
from tapo_core.differences import Difference, differences_between, first_token_difference
from tapo_core.engines.protocols import HeldWeights, PolicyRef, Sample, Sampler, SampleRequest, TokenScores
from tapo_core.errors import UserError
from tapo_core.ids import derive_seed, digest
from tapo_core.records import (
    Advantage,
    ColdStartExample,
    Correction,
    ErrorLocation,
    Evaluation,
    FinishReason,
    PolicyVersion,
    Redaction,
    Rollout,
    RolloutKind,
    RolloutTokens,
    SelectionDecision,
    TokenRole,
    TokenWeight,
    Verification,
)
from tapo_core.revisions import read_history
from tapo_core.session import R, Session
from tapo_core.stages.build_cold_start_data import STAGE as CHOICE
from tapo_core.stages.build_cold_start_data import build_cold_start_data
from tapo_core.stages.changes import BENCHMARKS, OPERATION, REVISION
from tapo_core.stages.diagnose_and_correct import diagnose_and_correct
from tapo_core.stages.evaluate import again_of, evaluate_as, is_evaluation
from tapo_core.stages.filter_by_difficulty import filter_by_difficulty
from tapo_core.stages.locate_error import locate_error
from tapo_core.stages.sample import sample
from tapo_core.stages.start import stored_flow
from tapo_core.stages.update_policy import advantage_rows, batch_members, token_weight_rows, token_weights
from tapo_core.stages.verify import verify
from tapo_core.stages.zpd_filter import zpd_filter
from tapo_core.store import Record, StageCommit, StoreReader
from tapo_core.store.commits import check_chain
from tapo_core.store.tables import TABLES

#: What replay makes again.
_REPLAYED = (
    Rollout,
    RolloutTokens,
    Verification,
    ErrorLocation,
    Correction,
    SelectionDecision,
    Advantage,
    TokenWeight,
    Evaluation,
    ColdStartExample,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """What was replayed, and what differs. `not_replayed` are stages that only an engine can make again."""

    rows: dict[str, int]
    differences: list[Difference]
    not_replayed: list[str]
    n_redacted: int = 0  #: rows that were left out because a query was redacted


class _RecordedSampler:
    """A `Sampler` that answers with what the store recorded for a prompt and seed, and with nothing for any other."""

    def __init__(self, name: str, policy_version_id: str) -> None:
        self.name = name
        self.policy_version_id: str | None = policy_version_id
        self._samples: dict[int, list[tuple[list[int] | None, Sample]]] = {}

    def add(self, seed: int, prompt: list[int] | None, recorded: Sample) -> None:
        """Record an answer; `prompt` None where the store does not keep it."""
        self._samples.setdefault(seed, []).append((prompt, recorded))

    def load_policy(self, policy: PolicyRef) -> None:
        """Nothing to load."""

    def sample(self, requests: Sequence[SampleRequest], progress: Callable[[int], None] | None = None) -> list[Sample]:
        """The recorded answers; an empty one where none was recorded, which then shows as a difference."""
        return [self._recorded(request) for request in requests]

    def sample_on_each(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """There is one record."""
        return [self.sample(requests)]

    def weights_on_each(self) -> list[HeldWeights]:
        """A record has none."""
        return []

    def _recorded(self, request: SampleRequest) -> Sample:
        for prompt, recorded in self._samples.get(request.seed, ()):
            if prompt is None or prompt == request.prompt_token_ids:
                return recorded
        return Sample([], [], FinishReason.STOP)

    def sleep(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to free."""


class _ReplaySession(Session):
    """A session that reads a snapshot of the store, samples from it, and writes nothing."""

    def __init__(self, run_folder: Path) -> None:
        snapshot = StoreReader(run_folder)
        history = read_history(snapshot, run_folder)
        if history is None:
            raise UserError(f"{run_folder}: this run has not begun, so there is nothing to replay")
        initial = snapshot.load(PolicyVersion, iteration=0)[0]
        # No data file is read: the queries are in the store.
        assets = Assets(Path(initial.checkpoint_path), train="", held_out="")
        super().__init__(history.newest, assets, flow=None, folder=run_folder)
        self._reader = snapshot
        self.adopt()
        self.flow = stored_flow(self)
        self.made: list[Record] = []
        self._all_redacted = snapshot.redacted(self.run_id)
        self._redacted_at = redacted_at(snapshot.commits())
        self._left_out = self._all_redacted
        self._stored_prompts: dict[str, list[int]] = {}
        self._again: int | None = None

    def _known_verdicts(self) -> list[tuple[tuple[str, str], str]]:
        """None: what the store says is what is in question, so everything is judged again."""
        return []

    @property
    def redacted(self) -> frozenset[str]:
        """The queries that a stage leaves out now: see `replaying`."""
        return self._left_out

    def replaying(self, commit: StageCommit) -> None:
        """Prepare for a stage: sample what it sampled, since all evaluations of a policy version have the same seeds; take its
        prompts from the store; and leave out what cannot be made again, which is all redacted queries, but in an update those
        that were redacted before it.

        Advantages are normalised over the batch as it was, and need no text.
        """
        self._again = again_of(commit.stage)
        self._stored_prompts = self._prompts_of(commit)
        self._left_out = self._all_redacted
        if commit.stage == "update_policy":
            self._left_out = self.redacted_before(commit)

    def _prompts_of(self, commit: StageCommit) -> dict[str, list[int]]:
        """The prompts that a stage sampled with, by the id of the query or correction that they are about."""
        kind = RolloutKind.TRAINING if commit.stage == "sample" else RolloutKind.EVALUATION
        query_of = {row.rollout_id: row.query_id for row in self.load(Rollout, commit.iteration, kind=kind)}
        prompts = {}
        for row in self.load(RolloutTokens, commit.iteration):
            if row.role is TokenRole.CORRECTION:
                prompts[row.subject_id] = row.prompt_token_ids
            elif row.subject_id in query_of:
                prompts[query_of[row.subject_id]] = row.prompt_token_ids
        return prompts

    def prompt(self, message: str, subject_id: str) -> list[int]:
        """The stored prompt, as long as it has the message in it; else the prompt as it should be, so that the difference shows.

        A prompt may have more in it than the message says, such as the date that the chat template saw.
        """
        stored = self._stored_prompts.get(subject_id)
        if stored is not None and message.strip() in self.chat.transcript(stored):
            return stored
        return super().prompt(message, subject_id)

    def redacted_before(self, commit: StageCommit) -> frozenset[str]:
        """The queries that were redacted when a stage was made."""
        return frozenset(query_id for query_id, seq in self._redacted_at.items() if seq < commit.seq)

    def is_left_out(self) -> Callable[[Record], bool]:
        """Whether a row is about a redacted query, or rests on a text of one."""
        redacted = self._all_redacted
        if not redacted:
            return lambda row: False
        rollouts = [row for row in self.all(Rollout) if row.query_id in redacted]
        subjects = {row.correction_id for row in self.all(Correction) if row.query_id in redacted}
        subjects |= redacted | {row.rollout_id for row in rollouts}
        evaluated = {(row.iteration, self.queries[row.query_id].split) for row in rollouts if row.kind == "evaluation"}

        def left_out(row: Record) -> bool:
            if isinstance(row, Evaluation):
                return (row.iteration, row.dataset) in evaluated
            named = (getattr(row, name, None) for name in ("query_id", "subject_id", "rollout_id"))
            return any(name in subjects for name in named)

        return left_out

    def done(self, stage: str, iteration: int, input_digest: str) -> StageCommit | None:
        """Nothing is done yet: all is made again."""
        return None

    def all(self, record_class: type[R], **equal: str | int) -> list[R]:
        """The records of this run in all iterations."""
        return self._reader.load(record_class, run_id=self.run_id, **equal)

    def commit(
        self, stage: str, iteration: int, input_digest: str, manifest: dict[str, Any], records: Sequence[Record]
    ) -> StageCommit:
        """Catch what a stage made."""
        self.made += records
        nothing = digest(None)
        return StageCommit(
            0, self.run_id, iteration, stage, self.config_digest, input_digest, manifest, {}, nothing, None, nothing, ""
        )

    def sampler_at(self, version: PolicyVersion) -> Sampler:
        """What was sampled from a policy version, or about its rollouts."""
        sampled = {"policy_version_id": version.policy_version_id}
        rollouts = {row.rollout_id: row for row in self.all(Rollout, **sampled) if row.again == self._again}
        corrections = {row.correction_id: row for row in self.all(Correction, **sampled)}
        name = next((rollout.engine for rollout in rollouts.values()), "")
        recorded = _RecordedSampler(name, version.policy_version_id)
        subjects: dict[str, Rollout | Correction] = {**rollouts, **corrections}
        for iteration in sorted({row.iteration for row in subjects.values()}):
            for row in self.load(RolloutTokens, iteration):
                subject = subjects.get(row.subject_id)
                if subject is not None and row.role is not TokenRole.CONSTRUCTED:
                    answer = Sample(row.token_ids_T, row.logprobs_T or [], subject.finish_reason)
                    recorded.add(subject.seed, row.prompt_token_ids, answer)
            for location in self.load(ErrorLocation, iteration):
                for seed, output in _votes(location):
                    recorded.add(seed, None, Sample(self.chat.encode(output), [], FinishReason.STOP))
        return recorded

    def live_sampler_at(self, version: PolicyVersion) -> Sampler:
        """The real engine, holding a policy version."""
        return super().sampler_at(version)

    def commits(self) -> list[StageCommit]:
        """The commits of the snapshot, their chain followed."""
        commits = self._reader.commits()
        check_chain(commits)
        return commits


def redacted_at(commits: Iterable[StageCommit]) -> dict[str, int]:
    """Query id -> number of the commit that redacted it first."""
    first: dict[str, int] = {}
    for commit in commits:
        if TABLES[Redaction].name in commit.row_counts:
            first.setdefault(commit.manifest["query_id"], commit.seq)
    return first


def _votes(location: ErrorLocation) -> Iterable[tuple[int, str]]:
    """Seeds and outputs of what was sampled to find a location."""
    for vote in json.loads(location.votes or "[]"):
        pairs = (
            zip(vote["seeds"], vote["outputs"], strict=True) if "seeds" in vote else [(vote["seed"], vote["output"])]
        )
        yield from ((seed, output) for seed, output in pairs if output is not None)


def _replay_update(session: Session, iteration: int, _input_digest: str) -> StageCommit:
    """The derived part of an update: advantages, and OTS weights from the stored log-probabilities and entropies."""
    stored = session.load(TokenWeight, iteration)
    scores = {row.subject_id: TokenScores(row.logprobs_T, row.entropies_T) for row in stored}
    members = batch_members(session, iteration)
    weighted = [member for member in members if member.subject_id in scores]
    weights = {member.subject_id: token_weights(session, member, scores) for member in weighted}
    records: list[Record] = [*advantage_rows(session, iteration, members)]
    records += token_weight_rows(session, iteration, weighted, scores, weights)
    return session.commit("update_policy", iteration, "", {}, records)


_STAGES: dict[str, Callable[[Session, int, str], StageCommit]] = {
    "sample": sample,
    "verify": verify,
    "locate_error": locate_error,
    "diagnose_and_correct": diagnose_and_correct,
    "filter_by_difficulty": filter_by_difficulty,
    "update_policy": _replay_update,
    "zpd_filter": zpd_filter,
    "build_cold_start_data": build_cold_start_data,
}


def replay(run_folder: Path, iteration: int | None = None) -> Replay:
    """Replay all iterations of a run, or one.

    Raises:
        UserError: no run there, or no such iteration; or the initial model, whose tokenizer is needed, is gone.
    """
    session = _ReplaySession(run_folder)
    commits = [c for c in session.commits() if iteration is None or c.iteration == iteration]
    if not commits:
        raise UserError(f"{run_folder}: nothing was committed in iteration {iteration}")
    rows: dict[str, int] = {}
    differences: list[Difference] = []
    left_out, n_redacted = session.is_left_out(), 0
    for number in sorted({commit.iteration for commit in commits}):
        session.made = []
        session.enter(number)
        redrawn = False
        for commit in commits:
            if commit.iteration == number and _is_replayed(commit.stage):
                session.replaying(commit)
                if commit.stage == CHOICE and session.redacted != session.redacted_before(commit):
                    redrawn = True
                    continue
                if is_evaluation(commit.stage):
                    evaluate_as(session, commit)
                else:
                    _STAGES[commit.stage](session, number, commit.input_digest)
        for record_class in _REPLAYED:
            made = [r for r in session.made if isinstance(r, record_class) and not left_out(r)]
            found = [r for r in session.load(record_class, number) if not _is_later_verdict(r)]
            stored = [] if redrawn and record_class is ColdStartExample else [r for r in found if not left_out(r)]
            n_redacted += len(found) - len(stored)
            table = TABLES[record_class].name
            rows[table] = rows.get(table, 0) + len(stored)
            differences += differences_between(record_class, stored, made)
    session.close_engines()
    not_replayed = {
        c.stage for c in commits if not _is_replayed(c.stage) and TABLES[Redaction].name not in c.row_counts
    }
    decided = tuple(f"{name}-" for name in (REVISION, OPERATION, BENCHMARKS))  # by a person
    return Replay(rows, differences, sorted(s for s in not_replayed if not s.startswith(decided)), n_redacted)


def _is_later_verdict(row: Record) -> bool:
    """Whether it is of a `tapo verify --again`, which is no stage."""
    return isinstance(row, Verification) and row.again is not None


def _is_replayed(stage: str) -> bool:
    return stage in _STAGES or is_evaluation(stage)


@dataclasses.dataclass(frozen=True, slots=True)
class Resampled:
    """Rollouts that were sampled again from the stored policy, prompt and seed."""

    n: int
    differences: list[Difference]  #: column token_ids_T; the first token that differs


def resample(run_folder: Path, n: int, iteration: int | None = None) -> Resampled:
    """Sample `n` stored rollouts again, drawn at random but always the same ones, with the engine of the run.

    Raises:
        UserError: no run there, or a checkpoint is gone.
        TransientError: the engine could not be started.
    """
    session = _ReplaySession(run_folder)
    rollouts = session.all(Rollout) if iteration is None else session.load(Rollout, iteration)
    rollouts = [rollout for rollout in rollouts if rollout.query_id not in session.redacted]
    drawn = random.Random(derive_seed(0, 0, "resample")).sample(rollouts, min(n, len(rollouts)))
    versions = {row.policy_version_id: row for row in session.all(PolicyVersion)}
    by_place: dict[tuple[str, int], list[Rollout]] = {}
    for rollout in sorted(drawn, key=lambda r: versions[r.policy_version_id].iteration):
        by_place.setdefault((rollout.policy_version_id, rollout.iteration), []).append(rollout)
    differences = []
    try:
        for (version_id, place), chosen in by_place.items():
            session.enter(place)
            tokens = [session.all(RolloutTokens, subject_id=r.rollout_id, role=TokenRole.ROLLOUT)[0] for r in chosen]
            requests = [
                SampleRequest(row.prompt_token_ids, r.seed, r.max_new_tokens, r.temperature, r.top_p)
                for r, row in zip(chosen, tokens, strict=True)
            ]
            samples = session.live_sampler_at(versions[version_id]).sample(requests)
            for rollout, row, again in zip(chosen, tokens, samples, strict=True):
                if again.token_ids_T != row.token_ids_T:
                    differences.append(first_token_difference(rollout, row.token_ids_T, again.token_ids_T))
    finally:
        session.close()
    return Resampled(len(drawn), differences)
