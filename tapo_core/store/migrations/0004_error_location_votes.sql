-- Error location by methods that sample: whom they asked, with what prompt, and every answer.
ALTER TABLE error_location ADD COLUMN policy_version_id UUID;
ALTER TABLE error_location ADD COLUMN reference_rollout_id UUID;
ALTER TABLE error_location ADD COLUMN prompt_version VARCHAR;
ALTER TABLE error_location ADD COLUMN prompt_sha256 VARCHAR;
ALTER TABLE error_location ADD COLUMN agreement DOUBLE;
ALTER TABLE error_location ADD COLUMN votes VARCHAR; -- JSON list

-- One row for each step from a parent to what came out of it. Kinds are table names; a constructed trajectory is
-- known by the `correction` that built it. `relation` says what the parent is to the child.
CREATE OR REPLACE VIEW lineage_edge AS
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
SELECT 'error_location', error_location_id, 'rollout', reference_rollout_id, 'reference_rollout'
FROM error_location
WHERE reference_rollout_id IS NOT NULL
UNION ALL
SELECT 'error_location', error_location_id, 'policy_version', policy_version_id, 'asked_policy'
FROM error_location
WHERE policy_version_id IS NOT NULL
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
