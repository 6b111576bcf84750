"""The command line: ``tapo demo | train | zpd | cold-start | eval | data | compare | sql | lineage``."""
