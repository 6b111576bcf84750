"""The command line: ``tapo demo | train | eval | compare | sql | shell | lineage | audit``."""
