-- Training queries that are duplicates of held-out queries or benchmark problems. A dropped one is in no other table.
CREATE TABLE query_overlap (
    overlap_id UUID NOT NULL,
    run_id UUID NOT NULL,
    query_id UUID,
    source VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    other_query_id UUID NOT NULL,
    other_split VARCHAR NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('exact', 'near')),
    similarity DOUBLE NOT NULL,
    dropped BOOLEAN NOT NULL
);
