"""SQL for people: it reads the store, and nothing else, for a limited time."""

from pathlib import Path

import pytest
from small_run import (
    CONFIG_DIGEST,
    CONSTRUCTED_TEXT,
    CORRECTION_ID,
    EVALUATION_ROLLOUT,
    QUERY_ID,
    ROLLOUTS,
    VERSIONS,
    build_small_run,
)

from tapo_core.errors import UserError
from tapo_core.store import query


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small_run(tmp_path_factory.mktemp("run"))


def test_result_is_a_data_frame(run_folder: Path) -> None:
    found = query(run_folder, "SELECT k, kind FROM rollout ORDER BY kind DESC, k LIMIT 2")
    assert found.to_dict("records") == [{"k": 0, "kind": "training"}, {"k": 1, "kind": "training"}]
    assert list(query(run_folder, "SELECT k FROM rollout WHERE false").columns) == ["k"]
    assert len(query(run_folder, "SELECT * FROM range(5000)")) == 5000


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO config VALUES ('a', 'b')",
        "UPDATE rollout SET k = 1",
        "DELETE FROM rollout",
        "DROP TABLE rollout",
        "CREATE TABLE mine (i INTEGER)",
        "COPY rollout TO '{folder}/out.csv'",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
    ],
)
def test_sql_that_writes_or_reaches_outside_is_refused(run_folder: Path, tmp_path: Path, sql: str) -> None:
    with pytest.raises(UserError, match=r"^SQL on a run is read-only[^\n]*$"):
        query(run_folder, sql.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM run_folder",  # a variable of this test
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "SELEC 1",
        "SELECT * FROM rollouts",
        "SELECT nothing FROM rollout",
    ],
)
def test_wrong_sql_is_one_line(run_folder: Path, sql: str) -> None:
    with pytest.raises(UserError, match=r"^SQL: [^\n]*$"):
        query(run_folder, sql)


def test_endless_query_is_stopped(run_folder: Path) -> None:
    endless = "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"
    with pytest.raises(UserError, match=r"stopped after 0\.3 s"):
        query(run_folder, endless, limit_seconds=0.3)


def test_endless_result_is_stopped(run_folder: Path) -> None:
    with pytest.raises(UserError, match="more than 100000 rows: add a LIMIT"):
        query(run_folder, "SELECT * FROM range(100000000000)")


def test_missing_run_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no run in {tmp_path}: "):
        query(tmp_path, "SELECT 1")


def test_iteration_summary(run_folder: Path) -> None:
    (row,) = query(run_folder, "SELECT * EXCLUDE (run_id) FROM iteration_summary").to_dict("records")
    assert row == {
        "iteration": 1,
        "n_queries": 1,
        "n_rollouts": 4,
        "accuracy": 2 / 3,  # two correct, one wrong; the unknown one does not count
        "n_unknown": 1,
        "n_truncated": 1,
        "n_eligible": 1,
        "n_corrections": 1,
        "n_parsed": 1,
        "parse_rate": 1.0,
        "n_corrections_correct": 1,
        "mean_ots_weight": 2.0,
        "n_trained_original": 3,
        "n_trained_constructed": 1,
        "revision": 1,
    }


def test_trajectory(run_folder: Path) -> None:
    found = query(
        run_folder,
        "SELECT trajectory_id, kind, outcome, selected, decision_reason, advantage FROM trajectory",
    )
    missing = None
    rows = {tuple(missing if value != value else value for value in row) for row in found.itertuples(index=False)}
    assert rows == {
        (ROLLOUTS[0], "training", "correct", True, "eligible", 1.0),
        (ROLLOUTS[1], "training", "correct", True, "eligible", 1.0),
        (ROLLOUTS[2], "training", "wrong", True, "eligible", -1.0),
        (ROLLOUTS[3], "training", "unknown", False, "unknown_verdict", missing),
        (CORRECTION_ID, "constructed", "correct", True, "verified", 0.5),
        (EVALUATION_ROLLOUT, "evaluation", "no_answer", missing, missing, missing),
    }
    (constructed,) = query(run_folder, "SELECT * FROM trajectory WHERE kind = 'constructed'").to_dict("records")
    assert constructed["text"] == CONSTRUCTED_TEXT
    assert (constructed["query_text"], constructed["gold"]) == ("Start with 7. Add 12.", "19")
    assert (constructed["reward"], constructed["extracted_answer"]) == (1.0, "19")
    assert constructed["policy_version_id"] == VERSIONS[0]


def test_why_in_batch(run_folder: Path) -> None:
    assert len(query(run_folder, "SELECT * FROM why_in_batch")) == 4
    (row,) = query(run_folder, "SELECT * FROM why_in_batch WHERE subject_kind = 'constructed'").to_dict("records")
    ids = ("subject_id", "query_id", "wrong_rollout_id", "reference_rollout_id")
    assert [row[name] for name in ids] == [CORRECTION_ID, QUERY_ID, ROLLOUTS[2], ROLLOUTS[0]]
    versions = ("sampling_policy_version_id", "resulting_policy_version_id")
    assert [row[name] for name in versions] == VERSIONS
    numbers = ("reward", "mean", "std", "advantage", "group_size")
    assert [row[name] for name in numbers] == [1.0, 0.75, 0.5, 0.5, 1]
    assert (row["decision_reason"], row["prompt_version"]) == ("verified", "micro_reflective_v1")
    assert (row["config_digest"], row["text"]) == (CONFIG_DIGEST, CONSTRUCTED_TEXT)
