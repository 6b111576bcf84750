-- The curves to watch, one row for each iteration. The first six are those of the paper's Figure 3 (OTS weight mean,
-- policy-gradient loss, training accuracy, gradient norm, response length, KL); losses, norms and KL are means over the
-- iteration's optimizer steps. policy_kl is from the policy that sampled; reference_kl, from the initial model, is null
-- unless update.kl_coefficient is set.
CREATE VIEW training_curves AS
WITH updated AS (
    SELECT run_id, iteration,
        avg(value) FILTER (WHERE name = 'loss') AS loss,
        avg(value) FILTER (WHERE name = 'grad_norm') AS grad_norm,
        avg(value) FILTER (WHERE name = 'kl/original') AS policy_kl,
        avg(value) FILTER (WHERE name = 'reference_kl/original') AS reference_kl,
        max(value) FILTER (WHERE name = 'sampler_mismatch/max') AS sampler_mismatch
    FROM update_metric
    GROUP BY run_id, iteration
),
lengths AS (
    SELECT run_id, iteration, avg(n_tokens) AS response_length
    FROM rollout
    WHERE kind = 'training'
    GROUP BY run_id, iteration
),
located AS ( -- where constructions see the first error: 0 = the first step, 1 = the last
    SELECT run_id, iteration, avg(step / (n_steps - 1)) FILTER (WHERE n_steps > 1) AS located_at
    FROM error_location
    WHERE method = 'construction' AND step IS NOT NULL
    GROUP BY run_id, iteration
)
SELECT summary.run_id, summary.iteration, summary.mean_ots_weight, updated.loss, summary.accuracy, updated.grad_norm,
    lengths.response_length, updated.policy_kl, updated.reference_kl,
    summary.n_eligible, summary.parse_rate,
    summary.n_corrections_correct / nullif(summary.n_parsed, 0) AS construction_pass_rate,
    located.located_at,
    summary.n_unknown / summary.n_rollouts AS unknown_rate,
    updated.sampler_mismatch
FROM iteration_summary AS summary
LEFT JOIN updated ON updated.run_id = summary.run_id AND updated.iteration = summary.iteration
LEFT JOIN lengths ON lengths.run_id = summary.run_id AND lengths.iteration = summary.iteration
LEFT JOIN located ON located.run_id = summary.run_id AND located.iteration = summary.iteration
ORDER BY summary.run_id, summary.iteration;
