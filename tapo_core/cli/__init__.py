"""The command line: ``tapo demo | train | zpd | cold-start | eval | data | compare | diff | sql | shell | lineage | audit``."""
