-- Later configurations of a run: revisions, which change what shapes the trajectories from an iteration on, and changes of keys that
-- only operate the run. The configuration that the run began with is in tables run and config.
CREATE TABLE config_change (
    change_id UUID NOT NULL,
    run_id UUID NOT NULL,
    number INTEGER NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('revision', 'operation')),
    revision INTEGER NOT NULL,
    first_iteration INTEGER NOT NULL,
    after_commit INTEGER NOT NULL,
    config_digest VARCHAR NOT NULL,
    config_json VARCHAR NOT NULL,
    changes VARCHAR NOT NULL, -- JSON list of objects with key, old and new
    reason VARCHAR,
    made_by VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);

-- Which further evaluation of a policy version a row is of (NULL: the first one), and the temperature of its samples.
ALTER TABLE rollout ADD COLUMN again INTEGER;
ALTER TABLE evaluation ADD COLUMN temperature DOUBLE;
ALTER TABLE evaluation ADD COLUMN again INTEGER;

-- Every revision of a run's configuration, the first one included, with the iterations that it applies to. last_iteration is NULL
-- for the newest, and below first_iteration for one that was replaced before an iteration used it.
CREATE VIEW config_revision AS
SELECT run_id, revision, first_iteration,
    min(first_iteration) OVER (
        PARTITION BY run_id ORDER BY revision ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    ) - 1 AS last_iteration,
    config_digest, config_json, changes, reason, made_by, created_at
FROM (
    SELECT run.run_id, 1 AS revision, 0 AS first_iteration, run.config_digest, config.config_json, NULL AS changes,
        NULL AS reason, NULL AS made_by, run.created_at
    FROM run
    JOIN config ON config.config_digest = run.config_digest
    UNION ALL
    SELECT run_id, revision, first_iteration, config_digest, config_json, changes, reason, made_by, created_at
    FROM config_change
    WHERE kind = 'revision'
) AS made;

-- The revision that each iteration ran under.
CREATE VIEW iteration_revision AS
SELECT begun.run_id, begun.iteration, max(config_revision.revision) AS revision,
    arg_max(config_revision.config_digest, config_revision.revision) AS config_digest
FROM (SELECT DISTINCT run_id, iteration FROM stage_commit) AS begun
JOIN config_revision
    ON config_revision.run_id = begun.run_id AND config_revision.first_iteration <= begun.iteration
GROUP BY begun.run_id, begun.iteration;

-- Every key that got another value after the run had begun, with both values (JSON) and the iteration that the new one holds from.
CREATE VIEW changed_key AS
SELECT change.run_id, change.number, change.kind, change.revision, change.first_iteration, change.after_commit,
    entry.value ->> '$.key' AS key, CAST(entry.value -> '$.old' AS VARCHAR) AS old_value,
    CAST(entry.value -> '$.new' AS VARCHAR) AS new_value, change.reason, change.made_by, change.created_at
FROM config_change AS change, json_each(CAST(change.changes AS JSON)) AS entry;

-- Every key of a run's newest configuration on a row of its own: what differs between two runs is a join away.
CREATE OR REPLACE VIEW config_value AS
WITH newest AS (
    SELECT run_id, config_json FROM config_change
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY number DESC) = 1
)
SELECT run.run_id, run.name AS run_name, substr(entry.fullkey, 3) AS key, CAST(entry.atom AS VARCHAR) AS value
FROM run
JOIN config ON config.config_digest = run.config_digest
LEFT JOIN newest ON newest.run_id = run.run_id,
    json_tree(CAST(coalesce(newest.config_json, config.config_json) AS JSON)) AS entry
WHERE entry.atom IS NOT NULL;

-- The newest evaluation of each policy version on each data set.
CREATE VIEW newest_evaluation AS
SELECT * FROM evaluation
QUALIFY coalesce(again, 1) = max(coalesce(again, 1)) OVER (PARTITION BY policy_version_id, dataset);

-- Every policy version with its parent, its checkpoint, what it was trained on and how it did.
CREATE OR REPLACE VIEW policy_history AS
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
LEFT JOIN newest_evaluation AS evaluation
    ON evaluation.policy_version_id = policy_version.policy_version_id
    AND evaluation.dataset = 'held_out'
    AND evaluation.metric = 'pass@1';

-- One row for each iteration that sampled training rollouts. Accuracy is the mean reward of the training rollouts whose
-- verdict is known; an unknown verdict counts neither way.
CREATE OR REPLACE VIEW iteration_summary AS
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
    coalesce(trained.n_trained_constructed, 0) AS n_trained_constructed,
    iteration_revision.revision
FROM sampled
LEFT JOIN decided ON decided.run_id = sampled.run_id AND decided.iteration = sampled.iteration
LEFT JOIN corrected ON corrected.run_id = sampled.run_id AND corrected.iteration = sampled.iteration
LEFT JOIN weighted ON weighted.run_id = sampled.run_id AND weighted.iteration = sampled.iteration
LEFT JOIN trained ON trained.run_id = sampled.run_id AND trained.iteration = sampled.iteration
LEFT JOIN iteration_revision ON iteration_revision.run_id = sampled.run_id AND iteration_revision.iteration = sampled.iteration
ORDER BY sampled.run_id, sampled.iteration;

-- One row for each trajectory in an update: what it is, where it came from, why it is there and how it counted.
CREATE OR REPLACE VIEW why_in_batch AS
SELECT advantage.run_id, advantage.iteration, advantage.subject_kind, advantage.subject_id, advantage.query_id,
    query.text AS query_text, query.gold,
    coalesce(rollout.text, correction.constructed_text) AS text,
    correction.wrong_rollout_id, wrong.text AS wrong_rollout_text,
    correction.reference_rollout_id, reference.text AS reference_rollout_text,
    coalesce(rollout.policy_version_id, correction.policy_version_id) AS sampling_policy_version_id,
    selection_decision.selected, selection_decision.reason AS decision_reason,
    advantage.advantage_group, advantage.scope, advantage.group_size, advantage.reward, advantage.mean, advantage.std,
    advantage.value AS advantage,
    correction.prompt_version, coalesce(iteration_revision.config_digest, run.config_digest) AS config_digest,
    policy_version.policy_version_id AS resulting_policy_version_id,
    iteration_revision.revision
FROM advantage
JOIN run ON run.run_id = advantage.run_id
LEFT JOIN iteration_revision
    ON iteration_revision.run_id = advantage.run_id AND iteration_revision.iteration = advantage.iteration
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

-- The iterations of each revision that was made after the run had begun, for the lineage of what was made in them.
CREATE VIEW revision_span AS
SELECT change_id, run_id, first_iteration,
    coalesce(min(first_iteration) OVER (
        PARTITION BY run_id ORDER BY revision ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    ) - 1, 2147483647) AS last_iteration
FROM config_change
WHERE kind = 'revision';

ALTER VIEW lineage_edge RENAME TO lineage_edge_without_revisions;
CREATE VIEW lineage_edge AS
SELECT child_kind, child_id, parent_kind, parent_id, relation FROM lineage_edge_without_revisions
UNION ALL
SELECT made.kind, made.id, 'config_change', revision_span.change_id, 'under_revision'
FROM (
    SELECT 'rollout' AS kind, rollout_id AS id, run_id, iteration FROM rollout
    UNION ALL SELECT 'correction', correction_id, run_id, iteration FROM correction
    UNION ALL SELECT 'policy_version', policy_version_id, run_id, iteration FROM policy_version
) AS made
JOIN revision_span
    ON revision_span.run_id = made.run_id
    AND made.iteration BETWEEN revision_span.first_iteration AND revision_span.last_iteration;

ALTER VIEW lineage_node RENAME TO lineage_node_without_revisions;
CREATE VIEW lineage_node AS
SELECT kind, id, label FROM lineage_node_without_revisions
UNION ALL
SELECT 'config_change', change_id,
    concat(if(kind = 'revision', concat('revision ', revision, ' of the configuration'), 'operated otherwise'),
        ', from iteration ', first_iteration, ' on: ',
        array_to_string(json_extract_string(changes, '$[*].key'), ', '))
FROM config_change;
