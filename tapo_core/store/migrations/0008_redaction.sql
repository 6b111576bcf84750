-- One row for each row of another table that lost a text on purpose (`tapo redact`): what it was and what it is, as digests.
CREATE TABLE redaction (
    redaction_id UUID NOT NULL,
    run_id UUID NOT NULL,
    iteration INTEGER NOT NULL,
    query_id UUID NOT NULL,
    reason VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL,
    row_key VARCHAR NOT NULL, -- JSON list
    columns VARCHAR NOT NULL, -- JSON list
    original_digest VARCHAR NOT NULL,
    redacted_digest VARCHAR NOT NULL
);
