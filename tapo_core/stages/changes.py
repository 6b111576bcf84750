"""What is changed about a run that has begun: its settings, and the benchmarks it is evaluated on."""

import getpass
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from tapo_core.data import Inputs, check_golds
from tapo_core.decontamination import find_overlaps, overlap_row
from tapo_core.engines.openrlhf_runtime import check_zero_stage
from tapo_core.errors import ConfigError, DataError
from tapo_core.ids import canonical_json, deterministic_id, digest
from tapo_core.records import ChangeKind, Config, ConfigChange, Query, QueryOverlap
from tapo_core.revisions import (
    ChangedKey,
    History,
    as_json,
    changed_keys,
    refuse_fixed,
    refuse_other_settings,
    shaping,
)
from tapo_core.session import Session
from tapo_core.store import Record

#: Beginnings of the names of commits that a change makes.
REVISION, OPERATION, BENCHMARKS = "revision", "operation", "benchmarks"

#: The stage that an iteration of training begins with.
FIRST_STAGE = "sample"


def refuse_other_configuration(session: Session) -> None:
    """Refuse to go on with a run that has other settings; see `revisions.refuse_other_settings`."""
    if session.history is not None:
        refuse_other_settings(session.config, session.history, session.folder)


def revise(session: Session, reason: str | None) -> list[str]:
    """Make the session's configuration the next revision of its run. Returns what a person is to know about it, line by line.

    It applies from the first iteration on that has not begun; one that has begun ends under the revision it began with.

    Raises:
        ConfigError: a key cannot be changed, or no key that shapes trajectories is. Nothing was written.
        RunLockedError: another process works on the run.
    """
    session.lock()
    history = session.adopt()
    if history is None:
        raise ConfigError(f"{session.folder}: the run has not begun, and has no settings to revise")
    changes = changed_keys(history.newest, session.config)
    shapes = shaping(changed_keys(history.revision.config, session.config))
    refuse_fixed(shapes, session.folder)
    if not shapes:
        raise ConfigError(f"{session.folder}: no key that shapes trajectories is changed")
    check_changes(session)
    running = session.newest_iteration() + 1
    has_begun = session.find_commit(FIRST_STAGE, running) is not None
    number = history.revision.number + 1
    session.config_digest = session.config.digest
    first = running + 1 if has_begun else running
    _record(session, history, changes, ChangeKind.REVISION, number, first, reason)
    told = [f"revision {number} of the configuration, from iteration {first} on: {_listed(shapes)}"]
    if has_begun:
        told.append(
            f"iteration {running} has begun, and ends under revision {number - 1}; to do it again under new settings, resume "
            f"with --from {FIRST_STAGE} --iteration {running} and the same --set"
        )
    return told


def record_operation(session: Session) -> None:
    """Record which keys that operate the run have other values than before. (To evaluate a policy version operates no run.)"""
    history = session.history
    if history is None or session.flow is None:
        return
    changes = [c for c in changed_keys(history.newest, session.config) if not c.kind.in_digest]
    if not changes:
        return
    check_changes(session)
    first = max(session.newest_iteration() + 1, history.revision.first_iteration)
    _record(session, history, changes, ChangeKind.OPERATION, history.revision.number, first, None)
    told = [change for change in changes if change.key != "run.iterations"]
    if told:
        session.reporter.note(f"from iteration {first} on: {_listed(told)}")


def check_changes(session: Session) -> None:
    """See that training can go on from the newest policy version with the session's settings. Writes nothing.

    Raises:
        UserError: the optimizer's state does not fit to update.zero_stage.
    """
    newest = session.ref(session.policy_version(session.newest_iteration()))
    if newest.optimizer is not None and newest.optimizer.is_dir():
        check_zero_stage(newest.optimizer, session.config.update.zero_stage)


def _record(
    session: Session,
    history: History,
    changes: Sequence[ChangedKey],
    kind: ChangeKind,
    revision: int,
    first_iteration: int,
    reason: str | None,
) -> None:
    """Commit a change of the configuration to the session's, and take it into the session's history."""
    number = len(history.changes) + 1
    config_json = canonical_json(session.config.model_dump(mode="json"))
    commits = session.commits()
    change = ConfigChange(
        change_id=deterministic_id("config_change", run=session.run_id, number=number),
        run_id=session.run_id,
        number=number,
        kind=kind,
        revision=revision,
        first_iteration=first_iteration,
        after_commit=commits[-1].seq,
        config_digest=session.config_digest,
        config_json=config_json,
        changes=canonical_json(as_json(changes)),
        reason=reason,
        made_by=_who(),
        created_at=datetime.now(UTC).isoformat(),
    )
    records: list[Record] = [change]
    if not session.has_config(session.config_digest):
        records.append(Config(session.config_digest, config_json))
    name = REVISION if kind is ChangeKind.REVISION else OPERATION
    manifest = {"revision": revision, "first_iteration": first_iteration, "changes": as_json(changes)}
    input_digest = digest([commits[-1].chain_digest, config_json])
    session.commit(f"{name}-{number}", commits[-1].iteration, input_digest, manifest, records)
    session.adopt()


def _listed(changes: Sequence[ChangedKey]) -> str:
    return ", ".join(map(str, changes))


def _who() -> str:
    """User and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def ids_at_start(session: Session, inputs: Inputs) -> list[str]:
    """The ids of the queries that a run began with, in order: train and held-out queries as they are read now, and the problems
    of its first benchmarks as they are in the store, whether or not the configuration still names these.
    """
    history = session.history
    first = set() if history is None else set(history.revisions[0].config.evaluation.datasets)
    own = {"train", "held_out"}
    splits = {query_id: query.split for query_id, query in session.queries.items()}
    # Rows that were read and left out count too; no row of a benchmark is ever left out.
    ids = inputs.read - {query.query_id for query in inputs.queries if query.split not in own}
    # These may be gone from the data by now.
    ids |= {query_id for query_id in session.redacted if splits.get(query_id) in own}
    return sorted(ids | {query_id for query_id, split in splits.items() if split in first})


def add_benchmarks(session: Session, inputs: Inputs) -> None:
    """Add the problems of benchmarks that the run does not have yet, in a commit of their own.

    Raises:
        DataError: a benchmark has other problems than the store has under its name. Nothing was written.
    """
    stored: dict[str, set[str]] = {}
    for query_id, query in session.queries.items():
        stored.setdefault(query.split, set()).add(query_id)
    added = []
    for name in session.config.evaluation.datasets:
        queries = [query for query in inputs.queries if query.split == name]
        if name not in stored:
            added += queries
            continue
        read = {query.query_id for query in queries}
        n_other = len((read ^ stored[name]) - session.redacted)
        if n_other:
            raise DataError(
                f"evaluation.datasets.{name}: {n_other} problems differ from those that the run has under this name; give a "
                "data set that has changed another name"
            )
    if not added:
        return
    added = check_golds(
        Inputs(added, {}, frozenset(query.query_id for query in added)), session.verifier, skip=False
    ).queries
    names = sorted({query.split for query in added})
    overlaps = _overlaps(session, added)
    commits = session.commits()
    number = 1 + sum(commit.stage.startswith(f"{BENCHMARKS}-") for commit in commits)
    manifest = {"datasets": names, "n_queries": len(added), "n_overlaps": len(overlaps)}
    input_digest = digest([commits[-1].chain_digest, sorted(query.query_id for query in added)])
    session.commit(f"{BENCHMARKS}-{number}", commits[-1].iteration, input_digest, manifest, [*added, *overlaps])
    session.forget_queries()
    session.reporter.note(f"added to the run: {len(added)} problems of {', '.join(names)} (evaluation.datasets)")
    if overlaps:
        affected = len({overlap.query_id for overlap in overlaps})
        session.reporter.note(
            f"train: {affected} queries are duplicates of these problems; the run was begun with them and keeps them (see "
            "table query_overlap)"
        )


def _overlaps(session: Session, added: Sequence[Query]) -> list[QueryOverlap]:
    """The run's training queries that are duplicates of new problems, unless it does not look for any."""
    settings = session.config.data
    if settings.decontaminate == "off":
        return []
    redacted = session.redacted
    train = [q for query_id, q in session.queries.items() if q.split == "train" and query_id not in redacted]
    return [overlap_row(overlap, dropped=False) for overlap in find_overlaps(train, added, settings.instruction)]
