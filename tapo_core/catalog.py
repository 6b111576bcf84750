"""What names the catalog of a lake: a Postgres database in libpq's words, or the path of a DuckDB file."""

import re

_has_secret = re.compile(r"(?i)password\s*=").search
_is_other_kind = re.compile(r"[A-Za-z_][A-Za-z0-9_+.-]+:").match

POSTGRES = "postgres:"


def catalog_problem(catalog: str) -> str | None:
    """Why a text names no catalog, or None. Good ones: ``postgres:dbname=tapo host=127.0.0.1``, ``/shared/lake.duckdb``.

    A password is refused, because a run stores its configuration.
    """
    place = catalog.removeprefix(POSTGRES).strip()
    if not place:
        return "the catalog is not named: write postgres:dbname=... host=..., or the path of a DuckDB file"
    if _has_secret(catalog):
        return "a password does not belong here, for it would be stored with the run: put it into ~/.pgpass (or PGPASSFILE)"
    if _is_other_kind(place):
        return "write postgres:dbname=... host=... (keywords of libpq, no URI), or the path of a DuckDB file"
    return None
