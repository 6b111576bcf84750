"""The command line: ``tapo demo | train | eval | sql | lineage``."""
