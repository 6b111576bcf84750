-- One row for each engine and each time it took a policy: how far its log-probabilities were from those that transformers computes
-- from the checkpoint (nats), and whether it held the checkpoint's very weights. `stage` is the stage that it took the policy for.
CREATE VIEW probe AS
SELECT run_id, iteration, stage, CAST(entry.value ->> '$.policy_version_id' AS UUID) AS policy_version_id,
    CAST(entry.value ->> '$.replica' AS INTEGER) AS replica,
    entry.value ->> '$.place.engine' AS engine,
    entry.value ->> '$.place.dtype' AS dtype,
    entry.value ->> '$.place.device' AS device,
    entry.value ->> '$.place.reference_device' AS reference_device,
    CAST(entry.value ->> '$.differences.n_tokens' AS INTEGER) AS n_tokens,
    CAST(entry.value ->> '$.differences.mean' AS DOUBLE) AS mean_abs,
    CAST(entry.value ->> '$.differences.std' AS DOUBLE) AS std_abs,
    CAST(entry.value ->> '$.differences.rms' AS DOUBLE) AS rms,
    CAST(entry.value ->> '$.differences.largest' AS DOUBLE) AS max_abs,
    CAST(entry.value ->> '$.bound' AS DOUBLE) AS bound,
    CAST(entry.value ->> '$.calibration' AS BOOLEAN) AS calibration,
    (entry.value ->> '$.weights') = (entry.value ->> '$.checkpoint_weights') AS same_weights
FROM stage_commit, json_each(CAST(stage_commit.manifest AS JSON), '$.probes') AS entry;
