"""What an audit found, one line for each thing."""

from dataclasses import dataclass, field
from typing import Any

from tapo_core.text import one_line


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written."""

    kind: str  #: "changed", "missing", "added", "unfinished"; "gone" is no fault: a checkpoint that was deleted
    part: str  #: "ledger", "published", "database", "checkpoint", "redaction"
    message: str
    table: str | None = None
    key: str | None = None  #: "rollout_id=..."
    columns: tuple[str, ...] = ()
    file: str | None = None  #: relative to the run's folder

    @property
    def line(self) -> str:
        """The finding as one line."""
        place = "" if self.table is None else f"{self.table}{f' ({self.key})' if self.key else ''}: "
        columns = f" [{', '.join(self.columns)}]" if self.columns else ""
        file = f" ({self.file})" if self.file else ""
        return one_line(f"{self.kind}: {self.part}: {place}{self.message}{columns}{file}")


@dataclass(slots=True)
class Report:
    """What an audit saw."""

    n_commits: int = 0
    n_rows: int = 0
    n_files: int = 0
    n_redacted: int = 0  #: rows that lost texts on purpose; table ``redaction`` has who and why
    chain_digest: str | None = None  #: of the last commit
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, part: str, message: str, **where: Any) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, part, message, **where))

    @property
    def faults(self) -> list[Finding]:
        """The findings that are not merely "gone"."""
        return [finding for finding in self.findings if finding.kind != "gone"]
