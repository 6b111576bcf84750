"""Output formats of the command line; apart, so that `tapo --help` imports nothing heavy."""

from enum import StrEnum


class TableFormat(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"


class LineageFormat(StrEnum):
    """How a lineage is printed."""

    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"
