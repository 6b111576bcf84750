-- One table for each record class of tapo_core/records.py: same name (snake case), same columns in the same order.
-- Primary keys stand on small tables only: on a large one a key makes inserts 3 to 10 times slower. The writer
-- refuses doubled keys and rows without parents in the transaction that inserts them, so no foreign keys either.
-- Times are UTC.

CREATE TABLE schema_migration (
    version INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL, -- of the migration's text
    applied_at TIMESTAMP NOT NULL
);

CREATE TABLE stage_commit (
    seq BIGINT PRIMARY KEY, -- 1, 2, ... without a gap, over all runs of this database
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    stage VARCHAR NOT NULL,
    config_digest VARCHAR NOT NULL,
    input_digest VARCHAR NOT NULL,
    manifest VARCHAR NOT NULL, -- canonical JSON
    row_counts VARCHAR NOT NULL, -- canonical JSON object: table -> rows that the stage handed in
    content_digest VARCHAR NOT NULL, -- of those rows, whatever their order
    previous_digest VARCHAR, -- chain_digest of seq - 1; null for the first
    chain_digest VARCHAR NOT NULL,
    committed_at TIMESTAMP NOT NULL,
    UNIQUE (run_id, iteration, stage)
);

CREATE TABLE run (
    run_id UUID PRIMARY KEY,
    name VARCHAR NOT NULL,
    seed INTEGER NOT NULL,
    method VARCHAR NOT NULL,
    config_digest VARCHAR NOT NULL,
    tapo_version VARCHAR NOT NULL,
    engine_versions VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE config (
    config_digest VARCHAR PRIMARY KEY,
    config_json VARCHAR NOT NULL
);

CREATE TABLE policy_version (
    policy_version_id UUID PRIMARY KEY,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    parent_policy_version_id UUID,
    checkpoint_path VARCHAR NOT NULL,
    checkpoint_digest VARCHAR NOT NULL,
    optimizer_path VARCHAR,
    optimizer_digest VARCHAR,
    optimizer_steps INTEGER NOT NULL
);

CREATE TABLE query (
    query_id UUID NOT NULL,
    run_id UUID NOT NULL,
    split VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    gold VARCHAR NOT NULL,
    family VARCHAR,
    level INTEGER,
    source VARCHAR NOT NULL,
    content_sha256 VARCHAR NOT NULL
);

CREATE TABLE rollout (
    rollout_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    query_id UUID NOT NULL,
    policy_version_id UUID NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('training', 'evaluation')),
    k INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    n_prompt_tokens INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    finish_reason VARCHAR NOT NULL CHECK (finish_reason IN ('stop', 'length')),
    temperature DOUBLE NOT NULL,
    top_p DOUBLE NOT NULL,
    max_new_tokens INTEGER NOT NULL,
    engine VARCHAR NOT NULL,
    content_sha256 VARCHAR NOT NULL
);

CREATE TABLE rollout_tokens (
    subject_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    role VARCHAR NOT NULL CHECK (role IN ('rollout', 'correction', 'constructed')),
    prompt_token_ids INTEGER[] NOT NULL,
    token_ids_T INTEGER[] NOT NULL,
    logprobs_T FLOAT[]
);

CREATE TABLE verification (
    verification_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    subject_kind VARCHAR NOT NULL CHECK (subject_kind IN ('query', 'rollout', 'constructed')),
    subject_id UUID NOT NULL,
    outcome VARCHAR NOT NULL CHECK (outcome IN ('correct', 'wrong', 'no_answer', 'unknown')),
    reward DOUBLE,
    extracted_answer VARCHAR,
    gold VARCHAR NOT NULL,
    tier VARCHAR NOT NULL,
    reason VARCHAR,
    verifier VARCHAR NOT NULL,
    verifier_version VARCHAR NOT NULL,
    CHECK ((reward IS NULL) = (outcome = 'unknown')) -- unknown is never reward 0
);

CREATE TABLE error_location (
    error_location_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    rollout_id UUID NOT NULL,
    method VARCHAR NOT NULL,
    step INTEGER,
    n_steps INTEGER NOT NULL,
    char_start INTEGER,
    char_end INTEGER,
    token_start INTEGER,
    token_end INTEGER,
    evidence VARCHAR
);

CREATE TABLE correction (
    correction_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    query_id UUID NOT NULL,
    wrong_rollout_id UUID NOT NULL,
    reference_rollout_id UUID NOT NULL,
    error_location_id UUID,
    policy_version_id UUID NOT NULL,
    prompt_version VARCHAR NOT NULL,
    prompt_sha256 VARCHAR NOT NULL,
    seed INTEGER NOT NULL,
    raw_output VARCHAR NOT NULL,
    finish_reason VARCHAR NOT NULL CHECK (finish_reason IN ('stop', 'length')),
    parse_outcome VARCHAR NOT NULL CHECK (
        parse_outcome IN (
            'parsed', 'truncated', 'no_tag', 'prefix_mismatch', 'no_error_left', 'no_diagnosis', 'no_correction',
            'prompt_too_long', 'leaks_reference'
        )
    ),
    parse_detail VARCHAR,
    analysis VARCHAR,
    prefix_steps INTEGER,
    prefix_char_end INTEGER,
    prefix_token_end INTEGER,
    match_score DOUBLE,
    diagnosis VARCHAR,
    correction VARCHAR,
    constructed_text VARCHAR,
    content_sha256 VARCHAR NOT NULL
);

CREATE TABLE selection_decision (
    decision_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    subject_kind VARCHAR NOT NULL CHECK (subject_kind IN ('query', 'rollout', 'constructed')),
    subject_id UUID NOT NULL,
    selected BOOLEAN NOT NULL,
    reason VARCHAR NOT NULL,
    n_correct INTEGER,
    n_wrong INTEGER,
    n_unknown INTEGER
);

CREATE TABLE advantage (
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    subject_kind VARCHAR NOT NULL CHECK (subject_kind IN ('query', 'rollout', 'constructed')),
    subject_id UUID NOT NULL,
    advantage_group VARCHAR NOT NULL CHECK (advantage_group IN ('original', 'constructed')),
    scope VARCHAR NOT NULL,
    query_id UUID NOT NULL,
    group_size INTEGER NOT NULL,
    reward DOUBLE NOT NULL,
    mean DOUBLE NOT NULL,
    std DOUBLE NOT NULL,
    value DOUBLE NOT NULL
);

CREATE TABLE token_weight (
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    subject_id UUID NOT NULL,
    weights_T FLOAT[] NOT NULL,
    logprobs_T FLOAT[] NOT NULL,
    entropies_T FLOAT[] NOT NULL
);

CREATE TABLE update_metric (
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    policy_version_id UUID NOT NULL,
    optimizer_step INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    value DOUBLE NOT NULL
);

CREATE TABLE evaluation (
    evaluation_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    policy_version_id UUID NOT NULL,
    dataset VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    confidence DOUBLE NOT NULL,
    interval_method VARCHAR NOT NULL,
    n_queries INTEGER NOT NULL,
    n_samples INTEGER NOT NULL
);
