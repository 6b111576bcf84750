"""The documentation is true: links exist, the configuration page is current, the README's queries run on the real schema."""

import importlib.util
import re
from pathlib import Path

import pytest

from tapo_core.store import StoreWriter, query

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_configuration_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "infra" / "config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `make docs`"


def test_the_sql_of_the_readme_runs(tmp_path: Path) -> None:
    StoreWriter(tmp_path).migrate()
    statements = re.findall(r'tapo sql "([^"]+)"', (ROOT / "README.md").read_text(encoding="utf-8"))
    assert statements
    for statement in statements:
        query(tmp_path, statement)


def test_the_queries_of_the_page_run_and_have_the_columns_that_it_shows(tmp_path: Path) -> None:
    StoreWriter(tmp_path).migrate()
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    found = re.findall(r"```sql\n(.*?)\n```\n\n```text\n(.*?)\n?```", page, re.DOTALL)
    assert len(found) >= 20
    for statement, output in found:
        frame = query(tmp_path, statement)
        assert all(str(column) in output for column in frame.columns), statement


def test_the_readme_names_real_make_targets() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)) <= targets


def test_the_paper_map_names_functions_and_tests_that_exist() -> None:
    page = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    functions = re.findall(r"`(tapo_core/[\w/]+\.py):([\w.]+)`", page)
    assert len(functions) > 15
    for file, name in functions:
        text = (ROOT / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def|class) {part}\b", text, re.MULTILINE), f"{file}:{name}"
    for file in re.findall(r"`(tests/[\w/]+\.py)`", page):
        assert (ROOT / file).is_file(), file
    keys = set(
        re.findall(
            r"`((?:sampler|filter|correction|advantage|token_weight|update|evaluation|zpd|cold_start|sft)\.\w+)", page
        )
    )
    reference = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for key in keys:
        section, name = key.split(".")
        assert f"`{name}`" in reference.split(f"## [{section}]", 1)[1].split("\n## ", 1)[0], key
