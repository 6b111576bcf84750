"""Two policy versions on the problems that both were evaluated on, and what differs between two runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tapo_core.errors import UserError
from tapo_core.ids import derive_seed
from tapo_core.records import Query, Rollout, RolloutKind, SubjectKind, Verification, VerificationOutcome
from tapo_core.statistics import Comparison, compare
from tapo_core.store import StoreReader
from tapo_core.store.reader import ask
from tapo_core.store.view_snapshots import Connection, Snapshots

if TYPE_CHECKING:
    import pandas

CONFIDENCE, RESAMPLES = 0.95, 10_000


@dataclass(frozen=True, slots=True)
class PolicyAt:
    """The policy version that came out of an iteration of a run."""

    run_folder: Path
    iteration: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that two policy versions were evaluated on, and the share of correct samples of each."""

    query_ids: tuple[str, str]  #: in the first's run, and in the second's
    text: str
    first: float
    second: float


def compare_policies(first: PolicyAt, second: PolicyAt, dataset: str) -> Comparison:
    """pass@1 of the first less that of the second, paired by problem (see `statistics.compare`).

    Raises:
        UserError: see `shared_problems`.
    """
    return compare_problems(shared_problems(first, second, dataset), dataset)


def compare_problems(problems: Sequence[Problem], dataset: str) -> Comparison:
    """The comparison of what `shared_problems` found, which draws the same each time."""
    seed = derive_seed(0, 0, "compare", dataset)
    first, second = [problem.first for problem in problems], [problem.second for problem in problems]
    return compare(first, second, CONFIDENCE, RESAMPLES, seed)


def shared_problems(first: PolicyAt, second: PolicyAt, dataset: str) -> list[Problem]:
    """The problems of a data set that both were evaluated on, at least one of them.

    Raises:
        UserError: one of them was not evaluated on the data set, or they share no problem of it.
    """
    rates = [_rates(policy, dataset) for policy in (first, second)]
    shared = sorted(rates[0].keys() & rates[1].keys())
    if not shared:
        raise UserError(
            f"{first.run_folder} and {second.run_folder} were evaluated on different problems of {dataset!r}: nothing to compare"
        )
    pairs = [(rates[0][content], rates[1][content]) for content in shared]
    return [Problem((a[0].query_id, b[0].query_id), a[0].text, a[1], b[1]) for a, b in pairs]


#: What `settings` asks.
SETTINGS_TABLES = ("run", "config", "config_change", "policy_version", "query")
_SETTINGS = """
WITH made_with AS (
    SELECT 0 AS number, 0 AS first_iteration, config_json FROM run JOIN config ON config.config_digest = run.config_digest
    UNION ALL SELECT number, first_iteration, config_json FROM config_change
),
known AS (
    SELECT number, first_iteration, substr(entry.fullkey, 3) AS key, CAST(entry.atom AS VARCHAR) AS value
    FROM made_with, json_tree(CAST(config_json AS JSON)) AS entry
    WHERE entry.atom IS NOT NULL
),
told AS (
    SELECT *, lag(value) OVER (PARTITION BY key ORDER BY number) AS before FROM known
)
SELECT key, string_agg(if(number = 0, value, concat('from iteration ', first_iteration, ': ', value)), '; '
    ORDER BY number) AS value
FROM told WHERE before IS DISTINCT FROM value GROUP BY key
UNION ALL SELECT 'run.seed', CAST(seed AS VARCHAR) FROM run
UNION ALL SELECT 'tapo', tapo_version FROM run
UNION ALL SELECT 'engines', engine_versions FROM run
UNION ALL SELECT 'policies', CAST(count(*) AS VARCHAR) FROM policy_version
UNION ALL SELECT 'initial policy', checkpoint_digest FROM policy_version WHERE iteration = 0
UNION ALL
SELECT concat('queries/', split), concat(count(*), ' ', sha256(string_agg(content_sha256, '' ORDER BY content_sha256)))
FROM query GROUP BY split
"""


def settings(connection: Connection) -> "pandas.Series[str]":
    """What a run was made with, by key, on a snapshot of its `SETTINGS_TABLES`. A later value comes with its first iteration."""
    return ask(connection, _SETTINGS, limit_seconds=30.0, max_rows=100_000).set_index("key")["value"]


def differing_settings(first: Path, second: Path) -> "pandas.DataFrame":
    """What two runs were made with and differs: see `difference`.

    Raises:
        UserError: there is no run in one of the folders.
        IntegrityError: a published file is missing or damaged.
    """
    return difference(*(Snapshots(folder).remembered(SETTINGS_TABLES, settings) for folder in (first, second)))


def difference(first: "pandas.Series[str]", second: "pandas.Series[str]") -> "pandas.DataFrame":
    """Settings of two runs that are not the same: columns setting, first, second (null where a run has no such setting).

    Configuration key by key, versions, the initial policy's digest, and the queries' number and digest.
    """
    both = first.to_frame("first").join(second.to_frame("second"), how="outer").sort_index()
    same = (both["first"] == both["second"]) | (both["first"].isna() & both["second"].isna())
    return both[~same].rename_axis("setting").reset_index()


def evaluated_samples(
    reader: StoreReader, iteration: int, dataset: str
) -> dict[str, tuple[Query, list[tuple[Rollout, Verification]]]]:
    """The problems that a policy version was evaluated on, named by their content, with their samples and the verdicts on these.

    Of several evaluations the newest counts. Samples with an unknown verdict are left out, and so are problems without any other.
    """
    queries = {query.query_id: query for query in reader.load(Query, split=dataset)}
    verdicts = reader.load(Verification, iteration=iteration, subject_kind=SubjectKind.ROLLOUT, again=None)
    known = {verdict.subject_id: verdict for verdict in verdicts if verdict.reward is not None}
    found: dict[str, tuple[Query, list[tuple[Rollout, Verification]]]] = {}
    evaluated = [
        r for r in reader.load(Rollout, iteration=iteration, kind=RolloutKind.EVALUATION) if r.query_id in queries
    ]
    newest = max((rollout.again or 1 for rollout in evaluated), default=1)
    for rollout in evaluated:
        if (rollout.again or 1) < newest:
            continue
        query, verdict = queries.get(rollout.query_id), known.get(rollout.rollout_id)
        if query is not None and verdict is not None:
            found.setdefault(query.content_sha256, (query, []))[1].append((rollout, verdict))
    return found


def _rates(policy: PolicyAt, dataset: str) -> dict[str, tuple[Query, float]]:
    """Problems, named by their content, and the share of correct samples of each (see `evaluated_samples`)."""
    folder, iteration = policy.run_folder, policy.iteration
    reader = StoreReader(folder, iterations=[iteration], only=("query", "verification", "rollout"))
    try:
        found = evaluated_samples(reader, iteration, dataset)
    finally:
        reader.release()
    if not found:
        raise UserError(
            f"{folder}: policy version {iteration} was not evaluated on {dataset!r}; run `tapo eval` with --iteration {iteration}"
        )
    return {
        problem: (query, sum(verdict.outcome is VerificationOutcome.CORRECT for _, verdict in samples) / len(samples))
        for problem, (query, samples) in found.items()
    }
