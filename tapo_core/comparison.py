"""Two policy versions on the problems that both were evaluated on, and what differs between two runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tapo_core.errors import UserError
from tapo_core.ids import derive_seed
from tapo_core.records import Query, Rollout, RolloutKind, SubjectKind, Verification, VerificationOutcome
from tapo_core.statistics import Comparison, compare
from tapo_core.store import StoreReader, query

if TYPE_CHECKING:
    import pandas

CONFIDENCE, RESAMPLES = 0.95, 10_000


@dataclass(frozen=True, slots=True)
class PolicyAt:
    """The policy version that came out of an iteration of a run."""

    run_folder: Path
    iteration: int


def compare_policies(first: PolicyAt, second: PolicyAt, dataset: str) -> Comparison:
    """pass@1 of the first less that of the second, paired by problem (see `statistics.compare`).

    Raises:
        UserError: one of them was not evaluated on the data set, or they share no problem of it.
    """
    rates = [_rates(policy, dataset) for policy in (first, second)]
    shared = sorted(rates[0].keys() & rates[1].keys())
    if not shared:
        raise UserError(
            f"{first.run_folder} and {second.run_folder} were evaluated on different problems of {dataset!r}: nothing to compare"
        )
    seed = derive_seed(0, 0, "compare", dataset)
    return compare(
        [rates[0][problem] for problem in shared],
        [rates[1][problem] for problem in shared],
        CONFIDENCE,
        RESAMPLES,
        seed,
    )


_SETTINGS = """
SELECT key, value FROM config_value
UNION ALL SELECT 'run.seed', CAST(seed AS VARCHAR) FROM run
UNION ALL SELECT 'tapo', tapo_version FROM run
UNION ALL SELECT 'engines', engine_versions FROM run
UNION ALL SELECT 'policies', CAST(count(*) AS VARCHAR) FROM policy_version
UNION ALL SELECT 'initial policy', checkpoint_digest FROM policy_version WHERE iteration = 0
UNION ALL
SELECT concat('queries/', split), concat(count(*), ' ', sha256(string_agg(content_sha256, '' ORDER BY content_sha256)))
FROM query GROUP BY split
"""


def differing_settings(first: Path, second: Path) -> "pandas.DataFrame":
    """What two runs were made with and differs: columns setting, first, second (null where a run has no such setting).

    Configuration key by key, versions, the initial policy's digest, and the queries' number and digest.

    Raises:
        UserError: there is no run in one of the folders.
    """
    found = [query(folder, _SETTINGS).set_index("key")["value"] for folder in (first, second)]
    both = found[0].to_frame("first").join(found[1].to_frame("second"), how="outer").sort_index()
    same = (both["first"] == both["second"]) | (both["first"].isna() & both["second"].isna())
    return both[~same].rename_axis("setting").reset_index()


def evaluated_samples(
    reader: StoreReader, iteration: int, dataset: str
) -> dict[str, list[tuple[Rollout, Verification]]]:
    """The samples of a policy version by problem, named by its content, with their verdicts; unknown ones are left out."""
    queries = reader.load(Query, split=dataset)
    verdicts = reader.load(Verification, iteration=iteration, subject_kind=SubjectKind.ROLLOUT, again=None)
    rollouts = reader.load(Rollout, iteration=iteration, kind=RolloutKind.EVALUATION)
    contents = {query.query_id: query.content_sha256 for query in queries}
    known = {verdict.subject_id: verdict for verdict in verdicts if verdict.reward is not None}
    found: dict[str, list[tuple[Rollout, Verification]]] = {}
    for rollout in rollouts:
        verdict = known.get(rollout.rollout_id)
        if rollout.query_id in contents and verdict is not None:
            found.setdefault(contents[rollout.query_id], []).append((rollout, verdict))
    return found


def _rates(policy: PolicyAt, dataset: str) -> dict[str, float]:
    """Share of correct samples by problem (see `evaluated_samples`)."""
    folder, iteration = policy.run_folder, policy.iteration
    reader = StoreReader(folder)
    try:
        found = evaluated_samples(reader, iteration, dataset)
    finally:
        reader.release()
    if not found:
        raise UserError(
            f"{folder}: policy version {iteration} was not evaluated on {dataset!r}; run `tapo eval` with --iteration {iteration}"
        )
    return {
        problem: sum(verdict.outcome is VerificationOutcome.CORRECT for _, verdict in samples) / len(samples)
        for problem, samples in found.items()
    }
