-- The examples of supervised fine-tuning (SFT) before training, and their place in the lineage.
CREATE TABLE cold_start_example (
    example_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('sft', 'ift')),
    subject_id UUID NOT NULL,
    query_id UUID NOT NULL,
    n_tokens INTEGER NOT NULL,
    content_sha256 VARCHAR NOT NULL
);

-- The views stay as earlier migrations left them; what is new is put beside.
ALTER VIEW lineage_edge RENAME TO lineage_edge_without_cold_start;
CREATE VIEW lineage_edge AS
SELECT child_kind, child_id, parent_kind, parent_id, relation FROM lineage_edge_without_cold_start
UNION ALL
SELECT 'cold_start_example', example_id, CASE kind WHEN 'ift' THEN 'correction' ELSE 'rollout' END, subject_id, 'made_of'
FROM cold_start_example
UNION ALL
SELECT 'policy_version', policy_version.policy_version_id, 'cold_start_example', example.example_id, 'trained_on'
FROM cold_start_example AS example
JOIN policy_version ON policy_version.run_id = example.run_id AND policy_version.iteration = example.iteration;

ALTER VIEW lineage_node RENAME TO lineage_node_without_cold_start;
CREATE VIEW lineage_node AS
SELECT kind, id, label FROM lineage_node_without_cold_start
UNION ALL
SELECT 'cold_start_example', example_id, concat(kind, ' example of ', n_tokens, ' tokens') FROM cold_start_example;
