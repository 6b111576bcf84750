-- What ends a turn in a run, and the date in its prompts. A run that began before there was this table has no row in it.
CREATE TABLE turn (
    run_id UUID PRIMARY KEY,
    stop_tokens INTEGER[] NOT NULL, -- the end-of-turn token first
    stop_texts VARCHAR NOT NULL, -- JSON list, in the same order
    end_token INTEGER NOT NULL,
    end_named_by VARCHAR NOT NULL, -- chat_template, tokenizer, generation_config or config
    found_in VARCHAR NOT NULL, -- JSON object: each of these four, and the ids that it names
    template_clock VARCHAR NOT NULL -- local time, ISO 8601 without an offset
);
