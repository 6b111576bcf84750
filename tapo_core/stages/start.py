"""Stage 0: the run, its configuration, its queries and the initial policy enter the store."""

from collections.abc import Sequence
from datetime import UTC, datetime

import tapo_core
from tapo_core.data import Inputs, check_golds, check_lengths, load_inputs
from tapo_core.decontamination import find_overlaps, find_repeats, overlap_row
from tapo_core.engines.positions import positions_of
from tapo_core.errors import ConfigError, DataError, TapoError
from tapo_core.files import check_folder
from tapo_core.ids import canonical_json, deterministic_id, digest, tree_digest
from tapo_core.origin import find_origin
from tapo_core.records import Config, Origin, PolicyVersion, Query, QueryOverlap, Run
from tapo_core.session import Flow, Session, engine_versions
from tapo_core.stages.changes import add_benchmarks, ids_at_start, record_operation, refuse_other_configuration
from tapo_core.store import Record, StageCommit
from tapo_core.store.lake import check_lake
from tapo_core.tracking import check_tracking

STAGE = "start"

#: The flow of a run that does not say: it was begun before there were others.
_DEFAULT_FLOW: Flow = "train"


def check_inputs(session: Session, revises: bool = False) -> Inputs:
    """The run's queries, after everything that a person can get wrong was looked at.

    Writes nothing, but for bringing the store of a run that exists up to the present version. `revises`: the configuration is
    about to become the run's next revision, so it may differ from the newest one.

    Raises:
        ConfigError: a run of this name exists with other settings that shape trajectories, or is of another flow; the flow needs
            another method; or a package for tracking or the lake is missing.
        DataError: a data set is missing or malformed, holds a row that is too long, or holds too few queries.
        UserError: no checkpoint at model.path, no token ends a turn of its model, its chat template does not take a conversation
            of one user message, or the run's folder could not be made or written to.
    """
    config = session.config
    check_tracking(config.tracking)
    if config.store.lake is not None:
        check_lake(config.store.lake)
    if session.flow == "cold_start" and config.method != "tapo":
        raise ConfigError(
            f'method = {config.method!r} has no constructions to learn: set method = "tapo" for a cold start'
        )
    check_folder(session.folder)
    exists = (session.folder / "store").exists()
    if exists:
        session.open_store()
        session.adopt()
        if not revises:
            refuse_other_configuration(session)
        _refuse_other_flow(session)
    inputs = load_inputs(config, session.assets.train, session.assets.held_out, session.run_id)
    session.turn  # noqa: B018 - worked out now, before anything is made
    if not exists or config.sampler.engine == "vllm":  # an older version began runs with hf that are longer
        _check_positions(session)
    inputs = check_lengths(
        inputs, lambda text: len(session.chat.prompt(text)), config.sampler, config.data.skip_bad_rows
    )
    _check_enough(session, inputs.queries, _left_out(inputs))
    return inputs


def start(session: Session) -> StageCommit:
    """Begin a run, or find it begun; either way it is locked for this session from here on. Of a run that had begun, new values
    of keys that operate it are recorded, and the problems of new benchmarks are added.

    Raises:
        RunLockedError: another process works on the run.
        UserError: see `check_inputs`; or the data or the model changed since the run began. Nothing was written.
    """
    config = session.config
    inputs = check_inputs(session)
    policy = PolicyVersion(
        policy_version_id=deterministic_id("policy_version", run=session.run_id, iteration=0),
        run_id=session.run_id,
        iteration=0,
        parent_policy_version_id=None,
        checkpoint_path=str(session.assets.model.resolve()),
        checkpoint_digest=tree_digest(session.assets.model),
        optimizer_path=None,
        optimizer_digest=None,
        optimizer_steps=0,
    )
    # Of the queries as they were read: what is dropped of them follows from them and the configuration.
    read = set(inputs.read)
    if (session.folder / "store").exists():
        session.lock()
        if session.adopt() is not None:
            refuse_other_configuration(session)  # what was true before the lock may not be any more
            begun = session.done(STAGE, 0, digest([policy.checkpoint_digest, ids_at_start(session, inputs)]))
            if begun is not None:
                record_operation(session)
                add_benchmarks(session, inputs)
                return begun
    input_digest = digest([policy.checkpoint_digest, sorted(read)])
    inputs = check_golds(inputs, session.verifier, config.data.skip_bad_rows)
    _check_enough(session, inputs.queries, _left_out(inputs))
    queries, overlaps, found = _decontaminated(session, inputs.queries)
    session.lock()
    session.open_store()
    run = Run(
        run_id=session.run_id,
        name=config.run.name,
        seed=config.run.seed,
        method=config.method,
        config_digest=session.config_digest,
        tapo_version=tapo_core.__version__,
        engine_versions=engine_versions(),
        created_at=datetime.now(UTC).isoformat(),
    )
    resolved = Config(session.config_digest, canonical_json(config.model_dump(mode="json")))
    skipped = {split: len(rows) for split, rows in inputs.skipped.items() if rows}
    for split, count in skipped.items():
        first = inputs.skipped[split][0]
        session.reporter.note(f"{split}: {count} bad rows were skipped (data.skip_bad_rows); the first: {first}")
    manifest = {
        "policy_version_id": policy.policy_version_id,
        "n_queries": len(queries),
        "flow": session.flow or _DEFAULT_FLOW,
        "n_skipped_rows": skipped,
        **found,
    }
    records: list[Record] = [run, resolved, session.turn, policy, *_origin(session, policy), *queries, *overlaps]
    commit = session.commit(STAGE, 0, input_digest, manifest, records)
    session.adopt()
    return commit


def _check_positions(session: Session) -> None:
    wanted, there = session.config.sampler.max_model_len, positions_of(session.assets.model)
    if there is not None and there < wanted:
        raise ConfigError(
            f"{session.assets.model}: the model has {there} positions (config.json), fewer than sampler.max_model_len = "
            f"{wanted}; set sampler.max_model_len = {there}, or less, or use another model"
        )


def _origin(session: Session, policy: PolicyVersion) -> list[Origin]:
    """The other run that made the initial model, if one did."""
    try:
        found = find_origin(session.assets.model, policy)
    except TapoError as error:
        session.reporter.note(f"model.path is in a run that cannot be read, so the lineage ends with it: {error}")
        return []
    return [] if found is None else [found]


def _decontaminated(
    session: Session, queries: Sequence[Query]
) -> tuple[list[Query], list[QueryOverlap], dict[str, object]]:
    """The queries of the run, the duplicates that were found, and their counts for the manifest.

    Raises:
        DataError: too few training queries are left.
    """
    settings = session.config.data
    if settings.decontaminate == "off":
        return list(queries), [], {"decontaminate": "off"}
    train = [query for query in queries if query.split == "train"]
    others = [query for query in queries if query.split != "train"]
    overlaps = find_overlaps(train, others, settings.instruction)
    drop = settings.decontaminate == "drop"
    affected = {overlap.query.query_id for overlap in overlaps}
    dropped = affected if drop else set()
    kept = [query for query in queries if query.query_id not in dropped]
    _check_enough(session, kept, f" after {len(dropped)} duplicates of held-out queries and benchmarks were dropped")
    if affected:
        session.reporter.note(
            f"train: {len(affected)} queries are duplicates of held-out queries or benchmarks and were "
            f"{'dropped' if drop else 'kept (data.decontaminate)'}; see table query_overlap"
        )
    counts: dict[str, object] = {
        "decontaminate": settings.decontaminate,
        "n_overlaps": len(overlaps),
        "n_overlapping_train_queries": len(affected),
        "n_dropped": len(dropped),
        "n_repeats_within_train": len(find_repeats(train, settings.instruction)),
    }
    return kept, [overlap_row(overlap, drop) for overlap in overlaps], counts


def _left_out(inputs: Inputs) -> str:
    """Why there are fewer queries than rows, for an error's message."""
    count = len(inputs.skipped["train"])
    return f" after {count} bad rows were skipped (the first: {inputs.skipped['train'][0]})" if count else ""


def _check_enough(session: Session, queries: Sequence[Query], why: str) -> None:
    if all(query.split != "held_out" for query in queries):
        raise DataError(f"{session.assets.held_out}: every row is bad; tapo data lists what is wrong with them")
    needed = session.config.data.queries_per_iteration
    n_train = sum(query.split == "train" for query in queries)
    if n_train < needed:
        raise DataError(
            f"{session.assets.train}: {n_train} queries{why}, fewer than data.queries_per_iteration = {needed}; "
            "add rows or lower it"
        )


def stored_flow(session: Session) -> Flow | None:
    """The flow that a run is of; None if it was not begun."""
    begun = session.find_commit(STAGE, 0)
    session.release_store()
    return None if begun is None else flow_of(begun)


def flow_of(begun: StageCommit) -> Flow:
    """The flow of a run, from its first commit."""
    flow: Flow = begun.manifest.get("flow", _DEFAULT_FLOW)
    return flow


def _refuse_other_flow(session: Session) -> None:
    """Iterations mean different things to different flows: one must not go on with the stages of another."""
    flow = stored_flow(session)
    if None not in (flow, session.flow) and flow != session.flow:
        raise ConfigError(
            f"{session.folder}: a run of this name exists that is of the flow {flow}, not {session.flow}; choose another "
            "run.name"
        )
