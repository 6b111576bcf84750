"""The command line: ``tapo demo | train | eval | data | compare | sql | lineage``."""
