-- How long a verdict took, and which `tapo verify --again` it is of (NULL: the stage's own, the one that counts).
ALTER TABLE verification ADD COLUMN milliseconds DOUBLE;
ALTER TABLE verification ADD COLUMN again INTEGER;

-- The verdict that training saw. Later ones never change it.
CREATE OR REPLACE VIEW verdict AS
SELECT verification_id, run_id, iteration, subject_kind, subject_id, outcome, reward, extracted_answer, tier, reason
FROM verification
WHERE again IS NULL
QUALIFY row_number() OVER (
    PARTITION BY subject_kind, subject_id ORDER BY verifier, verifier_version, verification_id
) = 1;

-- The newest verdict of each text: of the last `tapo verify --again` that looked at it, else the stage's own.
CREATE VIEW newest_verdict AS
SELECT verification_id, run_id, iteration, subject_kind, subject_id, outcome, reward, extracted_answer, tier, reason,
    verifier, verifier_version, again
FROM verification
QUALIFY row_number() OVER (PARTITION BY subject_kind, subject_id ORDER BY again DESC NULLS LAST, verification_id) = 1;

-- Verdicts that are unknown, with the reason and the text: each is a rollout that nothing was learnt from. `now` is what a later
-- `tapo verify --again` said, if one did.
CREATE OR REPLACE VIEW unknown_verdict AS
SELECT verification.run_id, verification.iteration, verification.subject_kind, verification.subject_id,
    verification.reason, verification.tier, verification.verifier, verification.verifier_version, verification.gold,
    coalesce(rollout.text, correction.constructed_text) AS text,
    CASE WHEN newest_verdict.again IS NOT NULL THEN newest_verdict.outcome END AS now
FROM verification
LEFT JOIN rollout ON verification.subject_kind = 'rollout' AND rollout.rollout_id = verification.subject_id
LEFT JOIN correction ON verification.subject_kind = 'constructed' AND correction.correction_id = verification.subject_id
LEFT JOIN newest_verdict
    ON newest_verdict.subject_kind = verification.subject_kind AND newest_verdict.subject_id = verification.subject_id
WHERE verification.outcome = 'unknown' AND verification.again IS NULL;

-- What judging took, by tier.
CREATE VIEW verification_cost AS
SELECT run_id, iteration, verifier, verifier_version, tier, count(*) AS n,
    count(*) FILTER (WHERE outcome = 'unknown') AS n_unknown, sum(milliseconds) AS milliseconds
FROM verification
GROUP BY ALL;
