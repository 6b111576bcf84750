-- Views for the questions that people ask. A view adds nothing that the tables do not say.

-- The verdict of each text: its verification. Should several verifiers have judged one text, the first by name counts,
-- so that no view counts a text twice.
CREATE VIEW verdict AS
SELECT verification_id, run_id, iteration, subject_kind, subject_id, outcome, reward, extracted_answer, tier, reason
FROM verification
QUALIFY row_number() OVER (
    PARTITION BY subject_kind, subject_id ORDER BY verifier, verifier_version, verification_id
) = 1;

-- One row for each step from a parent to what came out of it. Kinds are table names; a constructed trajectory is
-- known by the `correction` that built it. `relation` says what the parent is to the child.
CREATE VIEW lineage_edge AS
SELECT 'rollout' AS child_kind, rollout_id AS child_id, 'query' AS parent_kind, query_id AS parent_id,
    'query' AS relation
FROM rollout
UNION ALL
SELECT 'rollout', rollout_id, 'policy_version', policy_version_id, 'sampling_policy' FROM rollout
UNION ALL
SELECT 'verification', verification_id, CASE subject_kind WHEN 'constructed' THEN 'correction' ELSE subject_kind END,
    subject_id, 'verified'
FROM verification
UNION ALL
SELECT 'error_location', error_location_id, 'rollout', rollout_id, 'located_in' FROM error_location
UNION ALL
SELECT 'correction', correction_id, 'rollout', wrong_rollout_id, 'wrong_rollout' FROM correction
UNION ALL
SELECT 'correction', correction_id, 'rollout', reference_rollout_id, 'reference_rollout' FROM correction
UNION ALL
SELECT 'correction', correction_id, 'error_location', error_location_id, 'error_location'
FROM correction
WHERE error_location_id IS NOT NULL
UNION ALL
SELECT 'correction', correction_id, 'policy_version', policy_version_id, 'sampling_policy' FROM correction
UNION ALL
SELECT 'selection_decision', decision_id,
    CASE subject_kind WHEN 'constructed' THEN 'correction' ELSE subject_kind END, subject_id, 'decided_on'
FROM selection_decision
UNION ALL
SELECT 'policy_version', policy_version.policy_version_id,
    CASE advantage.subject_kind WHEN 'constructed' THEN 'correction' ELSE advantage.subject_kind END,
    advantage.subject_id, 'trained_on'
FROM advantage
JOIN policy_version ON policy_version.run_id = advantage.run_id AND policy_version.iteration = advantage.iteration
UNION ALL
SELECT 'policy_version', policy_version_id, 'policy_version', parent_policy_version_id, 'parent'
FROM policy_version
WHERE parent_policy_version_id IS NOT NULL
UNION ALL
SELECT 'evaluation', evaluation_id, 'policy_version', policy_version_id, 'evaluated' FROM evaluation;

-- Everything that has an id and a place in the lineage, with one readable line.
CREATE VIEW lineage_node AS
SELECT 'query' AS kind, query_id AS id, concat(split, ' gold ', gold, ' "', text, '"') AS label FROM query
UNION ALL
SELECT 'policy_version', policy_version_id, concat('iteration ', iteration, ' ', checkpoint_path) FROM policy_version
UNION ALL
SELECT 'rollout', rollout.rollout_id,
    concat(
        'k=', rollout.k, ' iteration ', rollout.iteration, ' ', coalesce(verdict.outcome, 'not verified'),
        CASE rollout.finish_reason WHEN 'length' THEN ' truncated' ELSE '' END, ' "', rollout.text, '"'
    )
FROM rollout
LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
UNION ALL
SELECT 'verification', verification_id,
    concat(outcome, coalesce(' answer ' || extracted_answer, ''), ' gold ', gold, ' by ', verifier, ' ', tier)
FROM verification
UNION ALL
SELECT 'error_location', error_location_id,
    concat(method, CASE WHEN step IS NULL THEN ' sees no error' ELSE concat(' step ', step) END, coalesce(': ' || evidence, ''))
FROM error_location
UNION ALL
SELECT 'correction', correction.correction_id,
    concat(
        'iteration ', correction.iteration, ' ', correction.parse_outcome, coalesce(' ' || verdict.outcome, ''), ' "',
        coalesce(correction.diagnosis, correction.raw_output), '"'
    )
FROM correction
LEFT JOIN verdict ON verdict.subject_kind = 'constructed' AND verdict.subject_id = correction.correction_id
UNION ALL
SELECT 'selection_decision', decision_id,
    concat('iteration ', iteration, CASE WHEN selected THEN ' selected: ' ELSE ' left out: ' END, reason)
FROM selection_decision
UNION ALL
SELECT 'evaluation', evaluation_id, concat('iteration ', iteration, ' ', dataset, ' ', metric, ' ', value) FROM evaluation;

-- One row for each iteration that sampled training rollouts. Accuracy is the mean reward of the training rollouts whose
-- verdict is known; an unknown verdict counts neither way.
CREATE VIEW iteration_summary AS
WITH sampled AS (
    SELECT rollout.run_id, rollout.iteration, count(DISTINCT rollout.query_id) AS n_queries, count(*) AS n_rollouts,
        avg(verdict.reward) AS accuracy,
        count(*) FILTER (WHERE verdict.outcome = 'unknown') AS n_unknown,
        count(*) FILTER (WHERE rollout.finish_reason = 'length') AS n_truncated
    FROM rollout
    LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
    WHERE rollout.kind = 'training'
    GROUP BY rollout.run_id, rollout.iteration
),
decided AS (
    SELECT run_id, iteration, count(*) FILTER (WHERE selected) AS n_eligible
    FROM selection_decision
    WHERE subject_kind = 'query'
    GROUP BY run_id, iteration
),
corrected AS (
    SELECT correction.run_id, correction.iteration, count(*) AS n_corrections,
        count(*) FILTER (WHERE correction.parse_outcome = 'parsed') AS n_parsed,
        count(*) FILTER (WHERE verdict.outcome = 'correct') AS n_corrections_correct
    FROM correction
    LEFT JOIN verdict ON verdict.subject_kind = 'constructed' AND verdict.subject_id = correction.correction_id
    GROUP BY correction.run_id, correction.iteration
),
weighted AS ( -- over all tokens, so that a long trajectory counts for more
    SELECT run_id, iteration, sum(list_sum(weights_T)) / nullif(sum(len(weights_T)), 0) AS mean_ots_weight
    FROM token_weight
    GROUP BY run_id, iteration
),
trained AS (
    SELECT run_id, iteration,
        count(*) FILTER (WHERE advantage_group = 'original') AS n_trained_original,
        count(*) FILTER (WHERE advantage_group = 'constructed') AS n_trained_constructed
    FROM advantage
    GROUP BY run_id, iteration
)
SELECT sampled.run_id, sampled.iteration, sampled.n_queries, sampled.n_rollouts, sampled.accuracy, sampled.n_unknown,
    sampled.n_truncated,
    coalesce(decided.n_eligible, 0) AS n_eligible,
    coalesce(corrected.n_corrections, 0) AS n_corrections,
    coalesce(corrected.n_parsed, 0) AS n_parsed,
    corrected.n_parsed / corrected.n_corrections AS parse_rate,
    coalesce(corrected.n_corrections_correct, 0) AS n_corrections_correct,
    weighted.mean_ots_weight,
    coalesce(trained.n_trained_original, 0) AS n_trained_original,
    coalesce(trained.n_trained_constructed, 0) AS n_trained_constructed
FROM sampled
LEFT JOIN decided ON decided.run_id = sampled.run_id AND decided.iteration = sampled.iteration
LEFT JOIN corrected ON corrected.run_id = sampled.run_id AND corrected.iteration = sampled.iteration
LEFT JOIN weighted ON weighted.run_id = sampled.run_id AND weighted.iteration = sampled.iteration
LEFT JOIN trained ON trained.run_id = sampled.run_id AND trained.iteration = sampled.iteration
ORDER BY sampled.run_id, sampled.iteration;

-- One row for each rollout and for each constructed trajectory.
CREATE VIEW trajectory AS
WITH written AS (
    SELECT rollout_id AS trajectory_id, kind, 'rollout' AS subject_kind, run_id, iteration, query_id, text,
        policy_version_id
    FROM rollout
    UNION ALL
    SELECT correction_id, 'constructed', 'constructed', run_id, iteration, query_id, constructed_text, policy_version_id
    FROM correction
    WHERE constructed_text IS NOT NULL
)
SELECT written.trajectory_id, written.kind, written.run_id, written.iteration, written.query_id,
    query.text AS query_text, query.gold, written.text, verdict.outcome, verdict.reward, verdict.extracted_answer,
    selection_decision.selected, selection_decision.reason AS decision_reason, advantage.value AS advantage,
    written.policy_version_id
FROM written
JOIN query ON query.query_id = written.query_id
LEFT JOIN verdict ON verdict.subject_kind = written.subject_kind AND verdict.subject_id = written.trajectory_id
LEFT JOIN selection_decision
    ON selection_decision.subject_kind = written.subject_kind
    AND selection_decision.subject_id = written.trajectory_id
    AND selection_decision.iteration = written.iteration
LEFT JOIN advantage
    ON advantage.subject_kind = written.subject_kind
    AND advantage.subject_id = written.trajectory_id
    AND advantage.iteration = written.iteration;

-- One row for each trajectory in an update: what it is, where it came from, why it is there and how it counted.
CREATE VIEW why_in_batch AS
SELECT advantage.run_id, advantage.iteration, advantage.subject_kind, advantage.subject_id, advantage.query_id,
    query.text AS query_text, query.gold,
    coalesce(rollout.text, correction.constructed_text) AS text,
    correction.wrong_rollout_id, wrong.text AS wrong_rollout_text,
    correction.reference_rollout_id, reference.text AS reference_rollout_text,
    coalesce(rollout.policy_version_id, correction.policy_version_id) AS sampling_policy_version_id,
    selection_decision.selected, selection_decision.reason AS decision_reason,
    advantage.advantage_group, advantage.scope, advantage.group_size, advantage.reward, advantage.mean, advantage.std,
    advantage.value AS advantage,
    correction.prompt_version, run.config_digest,
    policy_version.policy_version_id AS resulting_policy_version_id
FROM advantage
JOIN run ON run.run_id = advantage.run_id
JOIN query ON query.query_id = advantage.query_id
LEFT JOIN rollout ON advantage.subject_kind = 'rollout' AND rollout.rollout_id = advantage.subject_id
LEFT JOIN correction ON advantage.subject_kind = 'constructed' AND correction.correction_id = advantage.subject_id
LEFT JOIN rollout AS wrong ON wrong.rollout_id = correction.wrong_rollout_id
LEFT JOIN rollout AS reference ON reference.rollout_id = correction.reference_rollout_id
LEFT JOIN selection_decision
    ON selection_decision.subject_kind = advantage.subject_kind
    AND selection_decision.subject_id = advantage.subject_id
    AND selection_decision.iteration = advantage.iteration
LEFT JOIN policy_version
    ON policy_version.run_id = advantage.run_id AND policy_version.iteration = advantage.iteration;
