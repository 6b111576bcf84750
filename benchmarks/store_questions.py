"""Twenty questions of docs/queries.md, as asked of the store, of SQLite and of pandas.

The three must give the same answer: `store.py` checks it. The store's SQL also runs on plain Parquet files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas
from pandas import DataFrame

Frames = Mapping[str, DataFrame]


@dataclass(frozen=True)
class Question:
    """One question. `{subject}` stands for a constructed trajectory, `{query}` for a query's id."""

    name: str
    sql: str
    sqlite: str
    pandas: Callable[[Frames, Mapping[str, str]], DataFrame]


_VERDICTS = (
    "(SELECT subject_id, outcome, reward, extracted_answer, reason FROM verification WHERE subject_kind = 'rollout')"
)
_HISTORY = f"""
SELECT r.query_id, r.iteration, count(*) AS n, count(*) FILTER (WHERE v.outcome = 'correct') AS n_correct,
    avg(v.reward) AS accuracy, count(DISTINCT v.extracted_answer) AS n_answers
FROM rollout r JOIN {_VERDICTS} v ON v.subject_id = r.rollout_id
"""


def _judged(t: Frames) -> DataFrame:
    verdicts = t["verification"].query("subject_kind == 'rollout'")
    return t["rollout"].merge(
        verdicts[["subject_id", "outcome", "reward", "extracted_answer", "reason", "gold"]],
        left_on="rollout_id",
        right_on="subject_id",
    )


def _history(judged: DataFrame) -> DataFrame:
    judged = judged.assign(solved=judged["outcome"] == "correct")
    return judged.groupby(["query_id", "iteration"], as_index=False).agg(
        n=("rollout_id", "size"),
        n_correct=("solved", "sum"),
        accuracy=("reward", "mean"),
        n_answers=("extracted_answer", "nunique"),
    )


def _pull(t: Frames) -> DataFrame:
    weight = t["token_weight"].assign(total=t["token_weight"]["weights_T"].map(sum))[["subject_id", "total"]]
    length = t["rollout"][["rollout_id", "n_tokens"]].rename(columns={"rollout_id": "subject_id", "n_tokens": "length"})
    both = t["advantage"].merge(weight, on="subject_id", how="left").merge(length, on="subject_id", how="left")
    return both.assign(pull=both["value"].abs() * both["total"].fillna(both["length"]))


def _accuracy(t: Frames, _: Mapping[str, str]) -> DataFrame:
    decisions, corrections = t["selection_decision"], t["correction"]
    eligible = decisions[(decisions["subject_kind"] == "query") & decisions["selected"]].groupby("iteration").size()
    parsed = corrections[corrections["parse_outcome"] == "parsed"].groupby("iteration").size()
    accuracy = _judged(t).groupby("iteration")["reward"].mean()
    return pandas.concat([accuracy, eligible, parsed], axis=1).fillna(0).reset_index()


def _curves(t: Frames, _: Mapping[str, str]) -> DataFrame:
    weights = t["token_weight"]
    sums = DataFrame(
        {"iteration": weights["iteration"], "sum": weights["weights_T"].map(sum), "n": weights["weights_T"].map(len)}
    )
    total = sums.groupby("iteration").sum()
    metrics = t["update_metric"]
    loss = metrics[metrics["name"] == "loss"].groupby("iteration")["value"].mean()
    length = t["rollout"].groupby("iteration")["n_tokens"].mean()
    return pandas.concat([total["sum"] / total["n"], loss, length], axis=1).sort_index().reset_index()


def _why(t: Frames, ids: Mapping[str, str]) -> DataFrame:
    advantage = t["advantage"][t["advantage"]["subject_id"] == ids["subject"]]
    correction = t["correction"][t["correction"]["correction_id"] == ids["subject"]]
    wrong = t["rollout"][t["rollout"]["rollout_id"].isin(correction["wrong_rollout_id"])]
    query = t["query"][t["query"]["query_id"].isin(correction["query_id"])]
    decision = t["selection_decision"][t["selection_decision"]["subject_id"] == ids["subject"]]
    values = [
        frame[name].to_list()
        for frame, name in ((advantage, "value"), (wrong, "text"), (query, "text"), (decision, "reason"))
    ]
    return DataFrame(list(zip(*values, strict=True)))


def _summary(t: Frames) -> DataFrame:
    history = _history(_judged(t)).sort_values("iteration")
    found = history.groupby("query_id").agg(
        n=("n", "sum"),
        n_correct=("n_correct", "sum"),
        n_iterations=("iteration", "size"),
        first=("accuracy", "first"),
        last=("accuracy", "last"),
    )
    return found.join(t["query"].set_index("query_id")["text"])


def _never(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = _summary(t).query("n_correct == 0").sort_values(["n", "text"], ascending=[False, True])
    return found[["text", "n"]].head(5)


def _changed(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = _summary(t).query("n_iterations > 1")
    found = found.assign(gain=found["last"] - found["first"]).sort_values(["gain", "text"])
    return found[["text", "first", "last"]].head(5)


def _story(t: Frames, ids: Mapping[str, str]) -> DataFrame:
    judged = _judged({**t, "rollout": t["rollout"][t["rollout"]["query_id"] == ids["query"]]})
    return _history(judged).sort_values("iteration")[["iteration", "n", "n_correct", "n_answers"]]


def _error_kinds(t: Frames, _: Mapping[str, str]) -> DataFrame:
    wrong = _judged(t).query("outcome == 'wrong' or outcome == 'no_answer'")
    places = t["error_location"]
    seen = places.assign(
        false=(places["method"] == "arithmetic") & places["step"].notna(), found=places["step"].notna()
    )
    located = seen.groupby("rollout_id")[["false", "found"]].any()
    wrong = wrong.join(located, on="rollout_id")
    kind = wrong["false"].map({True: "false_equation", False: "not_located"}).fillna("not_examined")
    kind[(kind == "not_located") & (wrong["found"] == True)] = "wrong_step"  # noqa: E712
    kind[wrong["outcome"] == "no_answer"] = "no_answer"
    kind[wrong["finish_reason"] == "length"] = "truncated"
    return wrong.assign(kind=kind).groupby("kind", as_index=False).size()


def _steps(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = t["error_location"].query("method == 'task' and step.notna()")
    return found.groupby("step", as_index=False).size()


def _agreement(t: Frames, _: Mapping[str, str]) -> DataFrame:
    places = t["error_location"][["rollout_id", "method", "step"]]
    both = places[places["step"].notna()].merge(places, on="rollout_id", suffixes=("", "_other"))
    both = both[(both["method"] != both["method_other"]) & (both["method_other"] == "task")]
    return DataFrame([[both["step_other"].notna().sum(), (both["step"] == both["step_other"]).sum()]])


def _failed(t: Frames, _: Mapping[str, str]) -> DataFrame:
    verdicts = t["verification"].query("subject_kind == 'constructed'").set_index("subject_id")["outcome"]
    found = t["correction"].join(verdicts, on="correction_id")
    outcome = found["outcome"].where(found["parse_outcome"] == "parsed", found["parse_outcome"])
    return outcome[outcome != "correct"].value_counts().reset_index()


def _prompts(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = t["correction"].assign(parsed=t["correction"]["parse_outcome"] == "parsed")
    return found.groupby("prompt_version", as_index=False).agg(n=("parsed", "size"), rate=("parsed", "mean"))


def _moved(t: Frames, _: Mapping[str, str]) -> DataFrame:
    return _pull(t).sort_values(["pull", "subject_id"], ascending=[False, True])[["subject_id", "pull"]].head(5)


def _share(t: Frames, _: Mapping[str, str]) -> DataFrame:
    pull = _pull(t)
    constructed = pull[pull["advantage_group"] == "constructed"].groupby("iteration")["pull"].sum()
    return (constructed / pull.groupby("iteration")["pull"].sum()).reset_index()


def _by_length(t: Frames, _: Mapping[str, str]) -> DataFrame:
    judged = _judged({**t, "rollout": t["rollout"][t["rollout"]["iteration"] == 1]})
    judged = judged.sort_values(["n_tokens", "rollout_id"]).reset_index(drop=True)
    rest, size = len(judged) % 10, len(judged) // 10
    tenth = [n // (size + 1) if n < rest * (size + 1) else (n - rest) // size for n in range(len(judged))]
    found = judged.groupby(pandas.Series(tenth) + 1).agg(n=("reward", "size"), accuracy=("reward", "mean"))
    return found.reset_index()


def _unknown(t: Frames, _: Mapping[str, str]) -> DataFrame:
    return t["verification"].query("outcome == 'unknown'").groupby(["iteration", "reason"], as_index=False).size()


def _left_out(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = t["selection_decision"]
    return found[~found["selected"]].groupby(["subject_kind", "reason"], as_index=False).size()


def _groups(t: Frames, _: Mapping[str, str]) -> DataFrame:
    found = t["advantage"].assign(nothing=t["advantage"]["value"] == 0)
    groups = found.groupby(["advantage_group", "iteration", "scope", "query_id"], as_index=False)["nothing"].all()
    return groups.groupby("advantage_group", as_index=False).agg(n=("nothing", "size"), nothing=("nothing", "sum"))


def _held_back(t: Frames, _: Mapping[str, str]) -> DataFrame:
    tokens = t["rollout_tokens"].query("role == 'constructed'")[["subject_id", "token_ids_T"]]
    both = t["token_weight"].merge(tokens, on="subject_id")[["token_ids_T", "weights_T"]]
    entries = both.explode(["token_ids_T", "weights_T"]).astype({"weights_T": float})
    found = entries.groupby("token_ids_T")["weights_T"].agg(["size", "mean"]).reset_index()
    return found[found["size"] >= 2].sort_values(["mean", "token_ids_T"])[["token_ids_T", "mean"]].head(5)


def _diversity(t: Frames, _: Mapping[str, str]) -> DataFrame:
    return _history(_judged(t)).groupby("iteration", as_index=False)["n_answers"].mean()


_WEIGHT = "coalesce((SELECT sum(value) FROM json_each(w.weights_T)), r.n_tokens)"
_PULL_JOINS = (
    "FROM advantage a LEFT JOIN token_weight w ON w.run_id = a.run_id AND w.iteration = a.iteration "
    "AND w.subject_id = a.subject_id LEFT JOIN rollout r ON r.rollout_id = a.subject_id"
)

QUESTIONS = [
    Question(
        "accuracy by iteration",
        "SELECT iteration, accuracy, n_eligible, n_parsed FROM iteration_summary ORDER BY 1",
        f"SELECT r.iteration, avg(v.reward), coalesce(max(d.n), 0), coalesce(max(c.n), 0) FROM rollout r "
        f"JOIN {_VERDICTS} v ON v.subject_id = r.rollout_id "
        "LEFT JOIN (SELECT iteration, count(*) AS n FROM selection_decision WHERE subject_kind = 'query' AND selected "
        "GROUP BY iteration) d ON d.iteration = r.iteration LEFT JOIN (SELECT iteration, count(*) AS n FROM correction "
        "WHERE parse_outcome = 'parsed' GROUP BY iteration) c ON c.iteration = r.iteration GROUP BY r.iteration ORDER BY 1",
        _accuracy,
    ),
    Question(
        "held-out accuracy of each policy",
        "SELECT iteration, held_out_pass_at_1 FROM policy_history WHERE held_out_pass_at_1 IS NOT NULL ORDER BY 1",
        "SELECT p.iteration, e.value FROM policy_version p JOIN evaluation e USING (policy_version_id) "
        "WHERE e.dataset = 'held_out' AND e.metric = 'pass@1' ORDER BY 1",
        lambda t, _: t["policy_version"].merge(
            t["evaluation"].query("dataset == 'held_out' and metric == 'pass@1'"), on="policy_version_id"
        )[["iteration_x", "value"]],
    ),
    Question(
        "training curves",
        "SELECT iteration, mean_ots_weight, loss, response_length FROM training_curves ORDER BY 1",
        "SELECT l.iteration, w.mean, m.loss, l.length FROM (SELECT iteration, avg(n_tokens) AS length FROM rollout "
        "GROUP BY iteration) l JOIN (SELECT iteration, avg(value) AS loss FROM update_metric WHERE name = 'loss' "
        "GROUP BY iteration) m USING (iteration) LEFT JOIN (SELECT iteration, avg(e.value) AS mean FROM token_weight, "
        "json_each(weights_T) e GROUP BY iteration) w USING (iteration) ORDER BY 1",
        _curves,
    ),
    Question(
        "why is it in the batch",
        "SELECT advantage, wrong_rollout_text, query_text, decision_reason FROM why_in_batch WHERE subject_id = '{subject}'",
        "SELECT a.value, r.text, q.text, d.reason FROM advantage a JOIN correction c ON c.correction_id = a.subject_id "
        "JOIN rollout r ON r.rollout_id = c.wrong_rollout_id JOIN query q ON q.query_id = c.query_id "
        "JOIN selection_decision d ON d.subject_id = a.subject_id WHERE c.correction_id = '{subject}'",
        _why,
    ),
    Question(
        "queries never solved",
        "SELECT text, n_rollouts FROM query_summary WHERE NOT ever_solved ORDER BY 2 DESC, 1 LIMIT 5",
        f"SELECT q.text, h.n FROM (SELECT query_id, sum(n) AS n, sum(n_correct) AS c FROM ({_HISTORY} "
        "GROUP BY r.query_id, r.iteration) GROUP BY query_id) h JOIN query q USING (query_id) WHERE h.c = 0 "
        "ORDER BY 2 DESC, 1 LIMIT 5",
        _never,
    ),
    Question(
        "queries that got worse",
        "SELECT text, first_accuracy, last_accuracy FROM query_summary WHERE n_iterations > 1 "
        "ORDER BY last_accuracy - first_accuracy, text LIMIT 5",
        f"WITH h AS ({_HISTORY} GROUP BY r.query_id, r.iteration), e AS (SELECT query_id, accuracy, "
        "row_number() OVER (PARTITION BY query_id ORDER BY iteration) AS place, "
        "count(*) OVER (PARTITION BY query_id) AS n FROM h) SELECT q.text, f.accuracy, l.accuracy FROM e f "
        "JOIN e l ON l.query_id = f.query_id AND l.place = l.n JOIN query q ON q.query_id = f.query_id "
        "WHERE f.place = 1 AND f.n > 1 ORDER BY l.accuracy - f.accuracy, q.text LIMIT 5",
        _changed,
    ),
    Question(
        "the story of one query",
        "SELECT iteration, n_rollouts, n_correct, n_answers FROM query_history WHERE query_id = '{query}' ORDER BY 1",
        f"SELECT iteration, n, n_correct, n_answers FROM ({_HISTORY} WHERE r.query_id = '{{query}}' "
        "GROUP BY r.query_id, r.iteration) ORDER BY 1",
        _story,
    ),
    Question(
        "kinds of errors",
        "SELECT error_kind, count(*) FROM wrong_rollout GROUP BY 1 ORDER BY 1",
        "SELECT CASE WHEN r.finish_reason = 'length' THEN 'truncated' WHEN v.outcome = 'no_answer' THEN 'no_answer' "
        "WHEN l.false_equation THEN 'false_equation' WHEN l.found THEN 'wrong_step' "
        "WHEN l.rollout_id IS NULL THEN 'not_examined' ELSE 'not_located' END AS kind, count(*) "
        f"FROM rollout r JOIN {_VERDICTS} v ON v.subject_id = r.rollout_id LEFT JOIN (SELECT rollout_id, "
        "max(method = 'arithmetic' AND step IS NOT NULL) AS false_equation, max(step IS NOT NULL) AS found "
        "FROM error_location GROUP BY rollout_id) l ON l.rollout_id = r.rollout_id "
        "WHERE v.outcome IN ('wrong', 'no_answer') GROUP BY 1 ORDER BY 1",
        _error_kinds,
    ),
    Question(
        "where the first errors are",
        "SELECT step, count(*) FROM error_location WHERE method = 'task' AND step IS NOT NULL GROUP BY 1 ORDER BY 1",
        "SELECT step, count(*) FROM error_location WHERE method = 'task' AND step IS NOT NULL GROUP BY 1 ORDER BY 1",
        _steps,
    ),
    Question(
        "do methods agree",
        "SELECT sum(n_other_located), sum(n_same) FROM location_agreement WHERE other_method = 'task'",
        "SELECT count(o.step), count(*) FILTER (WHERE o.step = m.step) FROM error_location m JOIN error_location o "
        "ON o.rollout_id = m.rollout_id AND o.method <> m.method WHERE m.step IS NOT NULL AND o.method = 'task'",
        _agreement,
    ),
    Question(
        "corrections that failed",
        "SELECT outcome, count(*) FROM correction_outcome WHERE outcome <> 'correct' GROUP BY 1 ORDER BY 1",
        "SELECT CASE c.parse_outcome WHEN 'parsed' THEN v.outcome ELSE c.parse_outcome END AS kind, count(*) "
        "FROM correction c LEFT JOIN verification v ON v.subject_id = c.correction_id "
        "WHERE kind <> 'correct' GROUP BY 1 ORDER BY 1",
        _failed,
    ),
    Question(
        "which prompts parse",
        "SELECT prompt_version, count(*), avg(CAST(parse_outcome = 'parsed' AS INTEGER)) FROM correction GROUP BY 1",
        "SELECT prompt_version, count(*), avg(CAST(parse_outcome = 'parsed' AS INTEGER)) FROM correction GROUP BY 1",
        _prompts,
    ),
    Question(
        "what moved the policy most",
        "SELECT subject_id, pull FROM update_pull ORDER BY pull DESC, subject_id LIMIT 5",
        f"SELECT a.subject_id, abs(a.value) * {_WEIGHT} AS pull {_PULL_JOINS} ORDER BY 2 DESC, 1 LIMIT 5",
        _moved,
    ),
    Question(
        "share of the constructions",
        "SELECT iteration, sum(pull) FILTER (WHERE advantage_group = 'constructed') / sum(pull) FROM update_pull "
        "GROUP BY 1 ORDER BY 1",
        "SELECT iteration, sum(pull) FILTER (WHERE advantage_group = 'constructed') / sum(pull) FROM (SELECT a.iteration, "
        f"a.advantage_group, abs(a.value) * {_WEIGHT} AS pull {_PULL_JOINS}) GROUP BY 1 ORDER BY 1",
        _share,
    ),
    Question(
        "reward by length",
        "SELECT tenth, n_rollouts, accuracy FROM reward_by_length WHERE iteration = 1 ORDER BY 1",
        "SELECT tenth, count(*), avg(reward) FROM (SELECT ntile(10) OVER (ORDER BY r.n_tokens, r.rollout_id) AS tenth, "
        f"v.reward FROM rollout r JOIN {_VERDICTS} v ON v.subject_id = r.rollout_id WHERE r.iteration = 1) GROUP BY 1 ORDER BY 1",
        _by_length,
    ),
    Question(
        "unknown verdicts",
        "SELECT iteration, reason, count(*) FROM unknown_verdict GROUP BY ALL ORDER BY ALL",
        "SELECT iteration, reason, count(*) FROM verification WHERE outcome = 'unknown' GROUP BY 1, 2 ORDER BY 1, 2",
        _unknown,
    ),
    Question(
        "why things were left out",
        "SELECT subject_kind, reason, sum(n) FROM selection_summary WHERE NOT selected GROUP BY ALL ORDER BY ALL",
        "SELECT subject_kind, reason, count(*) FROM selection_decision WHERE NOT selected GROUP BY 1, 2 ORDER BY 1, 2",
        _left_out,
    ),
    Question(
        "groups that teach nothing",
        "SELECT advantage_group, count(*), count(*) FILTER (WHERE teaches_nothing) FROM advantage_group_summary "
        "GROUP BY 1 ORDER BY 1",
        "SELECT advantage_group, count(*), sum(idle) FROM (SELECT advantage_group, min(value = 0) AS idle "
        "FROM advantage GROUP BY iteration, advantage_group, scope, query_id) GROUP BY 1 ORDER BY 1",
        _groups,
    ),
    Question(
        "tokens that OTS holds back",
        "SELECT token_id, avg(weight) FROM token_weight_entry GROUP BY 1 HAVING count(*) >= 2 ORDER BY 2, 1 LIMIT 5",
        "SELECT i.value, avg(e.value) FROM token_weight w JOIN rollout_tokens t ON t.subject_id = w.subject_id "
        "AND t.role = 'constructed', json_each(t.token_ids_T) i JOIN json_each(w.weights_T) e ON e.key = i.key "
        "GROUP BY 1 HAVING count(*) >= 2 ORDER BY 2, 1 LIMIT 5",
        _held_back,
    ),
    Question(
        "diversity of groups",
        "SELECT iteration, avg(n_answers) FROM query_history GROUP BY 1 ORDER BY 1",
        f"SELECT iteration, avg(n_answers) FROM ({_HISTORY} GROUP BY r.query_id, r.iteration) GROUP BY 1 ORDER BY 1",
        _diversity,
    ),
]
