-- Where a run's first policy version came from, when another run made it (a fork, or the cold start before it).
CREATE TABLE origin (
    origin_id UUID NOT NULL,
    run_id UUID NOT NULL,
    policy_version_id UUID NOT NULL, -- version 0 of this run
    parent_run_id UUID NOT NULL,
    parent_run_name VARCHAR NOT NULL,
    parent_folder VARCHAR NOT NULL,
    parent_iteration INTEGER NOT NULL,
    parent_policy_version_id UUID NOT NULL,
    parent_config_digest VARCHAR NOT NULL,
    parent_chain_digest VARCHAR NOT NULL -- of the commit that made it
);

ALTER VIEW lineage_edge RENAME TO lineage_edge_within_a_run;
CREATE VIEW lineage_edge AS
SELECT child_kind, child_id, parent_kind, parent_id, relation FROM lineage_edge_within_a_run
UNION ALL
SELECT 'policy_version', policy_version_id, 'origin', origin_id, 'forked_from' FROM origin;

ALTER VIEW lineage_node RENAME TO lineage_node_within_a_run;
CREATE VIEW lineage_node AS
SELECT kind, id, label FROM lineage_node_within_a_run
UNION ALL
SELECT 'origin', origin_id,
    concat('policy version ', parent_policy_version_id, ', iteration ', parent_iteration, ' of run ', parent_run_name, ' in ', parent_folder)
FROM origin;
