-- Views for questions people ask of a run (docs/queries.md has them with their output). They add nothing to the tables.

-- Each query in each iteration that sampled it: how its group did, and what was decided about it.
CREATE VIEW query_history AS
SELECT rollout.run_id, rollout.query_id, rollout.iteration, count(*) AS n_rollouts,
    count(*) FILTER (WHERE verdict.outcome = 'correct') AS n_correct,
    count(*) FILTER (WHERE verdict.outcome = 'unknown') AS n_unknown,
    avg(verdict.reward) AS accuracy,
    count(DISTINCT verdict.extracted_answer) AS n_answers,
    avg(rollout.n_tokens) AS mean_tokens,
    any_value(selection_decision.reason) AS decision_reason
FROM rollout
LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
LEFT JOIN selection_decision
    ON selection_decision.subject_kind = 'query'
    AND selection_decision.subject_id = rollout.query_id
    AND selection_decision.run_id = rollout.run_id
    AND selection_decision.iteration = rollout.iteration
WHERE rollout.kind = 'training'
GROUP BY rollout.run_id, rollout.query_id, rollout.iteration;

-- One row for each training query: how often it was tried, and whether it was ever solved.
CREATE VIEW query_summary AS
SELECT history.run_id, history.query_id, any_value(query.family) AS family, any_value(query.level) AS level,
    count(*) AS n_iterations, sum(history.n_rollouts) AS n_rollouts, sum(history.n_correct) AS n_correct,
    sum(history.n_correct) > 0 AS ever_solved,
    arg_min(history.accuracy, history.iteration) AS first_accuracy,
    arg_max(history.accuracy, history.iteration) AS last_accuracy,
    max(history.iteration) AS last_iteration,
    any_value(query.text) AS text, any_value(query.gold) AS gold
FROM query_history AS history
JOIN query ON query.query_id = history.query_id
GROUP BY history.run_id, history.query_id;

-- One row for each wrong training rollout: how it failed, and where its first error is, as far as anything said so.
-- false_equation: an equation in it does not hold (arithmetic); wrong_step: another method found a step; not_located: none did;
-- not_examined: it was no candidate for a correction, so nothing looked for its error.
CREATE VIEW wrong_rollout AS
WITH located AS (
    SELECT rollout_id, bool_or(method = 'arithmetic' AND step IS NOT NULL) AS false_equation,
        arg_min(step, rank) FILTER (WHERE step IS NOT NULL) AS step,
        arg_min(method, rank) FILTER (WHERE step IS NOT NULL) AS method,
        arg_min(evidence, rank) FILTER (WHERE step IS NOT NULL) AS evidence,
        any_value(n_steps) AS n_steps
    FROM (
        SELECT error_location.*,
            coalesce(list_position(['task', 'policy', 'arithmetic', 'continuation', 'construction'], method), 9) AS rank
        FROM error_location
    )
    GROUP BY rollout_id
)
SELECT rollout.run_id, rollout.iteration, rollout.query_id, rollout.rollout_id,
    CASE
        WHEN rollout.finish_reason = 'length' THEN 'truncated'
        WHEN verdict.outcome = 'no_answer' THEN 'no_answer'
        WHEN located.false_equation THEN 'false_equation'
        WHEN located.step IS NOT NULL THEN 'wrong_step'
        WHEN located.rollout_id IS NULL THEN 'not_examined'
        ELSE 'not_located'
    END AS error_kind,
    located.step, located.n_steps, located.method, located.evidence, verdict.extracted_answer, query.gold, rollout.text
FROM rollout
JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
JOIN query ON query.query_id = rollout.query_id
LEFT JOIN located ON located.rollout_id = rollout.rollout_id
WHERE rollout.kind = 'training' AND verdict.outcome IN ('wrong', 'no_answer');

-- What became of each construction, in one word: its parse outcome if it did not parse, else its verdict.
CREATE VIEW correction_outcome AS
SELECT correction.run_id, correction.iteration, correction.correction_id, correction.query_id, correction.wrong_rollout_id,
    correction.prompt_version,
    CASE correction.parse_outcome WHEN 'parsed' THEN verdict.outcome ELSE correction.parse_outcome END AS outcome,
    correction.parse_detail, correction.prefix_steps, correction.match_score, correction.diagnosis, correction.raw_output
FROM correction
LEFT JOIN verdict ON verdict.subject_kind = 'constructed' AND verdict.subject_id = correction.correction_id;

-- How much each trajectory weighed in its update: |advantage| times the sum of its OTS weights (1 a token for originals), its
-- share of the pull on the first optimizer step's loss before clipping. What the gradient made of it is not stored.
CREATE VIEW update_pull AS
SELECT advantage.run_id, advantage.iteration, advantage.subject_kind, advantage.subject_id, advantage.query_id,
    advantage.advantage_group, advantage.reward, advantage.value AS advantage,
    coalesce(list_sum(token_weight.weights_T), len(rollout_tokens.token_ids_T)) AS total_weight,
    abs(advantage.value) * coalesce(list_sum(token_weight.weights_T), len(rollout_tokens.token_ids_T)) AS pull
FROM advantage
LEFT JOIN token_weight
    ON token_weight.run_id = advantage.run_id
    AND token_weight.iteration = advantage.iteration
    AND token_weight.subject_id = advantage.subject_id
LEFT JOIN rollout_tokens
    ON rollout_tokens.subject_id = advantage.subject_id
    AND rollout_tokens.iteration = advantage.iteration
    AND rollout_tokens.role = CASE advantage.subject_kind WHEN 'constructed' THEN 'constructed' ELSE 'rollout' END;

-- Training rollouts by length, in tenths of each iteration's rollouts: are long answers right, or wrong?
CREATE VIEW reward_by_length AS
WITH binned AS (
    SELECT rollout.run_id, rollout.iteration, rollout.n_tokens, rollout.finish_reason, verdict.reward,
        ntile(10) OVER (PARTITION BY rollout.run_id, rollout.iteration ORDER BY rollout.n_tokens, rollout.rollout_id) AS tenth
    FROM rollout
    LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
    WHERE rollout.kind = 'training'
)
SELECT run_id, iteration, tenth, min(n_tokens) AS shortest, max(n_tokens) AS longest, count(*) AS n_rollouts,
    avg(reward) AS accuracy, count(*) FILTER (WHERE finish_reason = 'length') AS n_truncated
FROM binned
GROUP BY run_id, iteration, tenth;

-- Verdicts that are unknown, with the reason and the text: each is a rollout that nothing was learnt from.
CREATE VIEW unknown_verdict AS
SELECT verification.run_id, verification.iteration, verification.subject_kind, verification.subject_id,
    verification.reason, verification.tier, verification.verifier, verification.verifier_version, verification.gold,
    coalesce(rollout.text, correction.constructed_text) AS text
FROM verification
LEFT JOIN rollout ON verification.subject_kind = 'rollout' AND rollout.rollout_id = verification.subject_id
LEFT JOIN correction ON verification.subject_kind = 'constructed' AND correction.correction_id = verification.subject_id
WHERE verification.outcome = 'unknown';

-- Why things were, and were not, selected, counted.
CREATE VIEW selection_summary AS
SELECT run_id, iteration, subject_kind, reason, selected, count(*) AS n
FROM selection_decision
GROUP BY run_id, iteration, subject_kind, reason, selected;

-- Each group of an update: what its advantages were measured against. A group without variance teaches nothing.
CREATE VIEW advantage_group_summary AS
SELECT run_id, iteration, advantage_group, scope, query_id, count(*) AS n, avg(reward) AS mean_reward, any_value(std) AS std,
    min(value) AS least, max(value) AS greatest, bool_and(value = 0) AS teaches_nothing
FROM advantage
GROUP BY run_id, iteration, advantage_group, scope, query_id;

-- How often two methods of error location name the same step of the same rollout. With method "task" on one side, that is
-- the other's accuracy.
CREATE VIEW location_agreement AS
SELECT one.run_id, one.iteration, one.method, other.method AS other_method, count(*) AS n,
    count(*) FILTER (WHERE other.step IS NOT NULL) AS n_other_located,
    count(*) FILTER (WHERE one.step = other.step) AS n_same
FROM error_location AS one
JOIN error_location AS other ON other.rollout_id = one.rollout_id AND other.method <> one.method
WHERE one.step IS NOT NULL
GROUP BY one.run_id, one.iteration, one.method, other.method;

-- Every policy version with its parent, its checkpoint, what it was trained on and how it did.
CREATE VIEW policy_history AS
SELECT policy_version.run_id, policy_version.iteration, policy_version.policy_version_id,
    policy_version.parent_policy_version_id, policy_version.checkpoint_path, policy_version.checkpoint_digest,
    policy_version.optimizer_steps, trained.n_original, trained.n_constructed,
    evaluation.value AS held_out_pass_at_1, evaluation.low, evaluation.high
FROM policy_version
LEFT JOIN (
    SELECT run_id, iteration, count(*) FILTER (WHERE advantage_group = 'original') AS n_original,
        count(*) FILTER (WHERE advantage_group = 'constructed') AS n_constructed
    FROM advantage
    GROUP BY run_id, iteration
) AS trained ON trained.run_id = policy_version.run_id AND trained.iteration = policy_version.iteration
LEFT JOIN evaluation
    ON evaluation.policy_version_id = policy_version.policy_version_id
    AND evaluation.dataset = 'held_out'
    AND evaluation.metric = 'pass@1';

-- Every key of a run's configuration on a row of its own: what differs between two runs is a join away.
CREATE VIEW config_value AS
SELECT run.run_id, run.name AS run_name, substr(entry.fullkey, 3) AS key, CAST(entry.atom AS VARCHAR) AS value
FROM run
JOIN config ON config.config_digest = run.config_digest, json_tree(CAST(config.config_json AS JSON)) AS entry
WHERE entry.atom IS NOT NULL;

-- What each stage handed in and when, with the seconds since the commit before it (the stage's own time, where a run was not
-- stopped in between).
CREATE VIEW stage_time AS
SELECT run_id, iteration, stage, committed_at,
    epoch(committed_at) - epoch(lag(committed_at) OVER (ORDER BY seq)) AS seconds_since_last, row_counts, manifest
FROM stage_commit;

-- The tokens that OTS holds back or lifts most.
CREATE VIEW token_weight_entry AS
SELECT token_weight.run_id, token_weight.iteration, token_weight.subject_id,
    unnest(range(len(token_weight.weights_T))) AS place, unnest(rollout_tokens.token_ids_T) AS token_id,
    unnest(token_weight.weights_T) AS weight, unnest(token_weight.logprobs_T) AS logprob,
    unnest(token_weight.entropies_T) AS entropy
FROM token_weight
JOIN rollout_tokens
    ON rollout_tokens.subject_id = token_weight.subject_id
    AND rollout_tokens.iteration = token_weight.iteration
    AND rollout_tokens.role = 'constructed';
