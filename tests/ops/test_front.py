"""The addresses of the UI and its API, by what the user has set."""

import dataclasses
import os
from pathlib import Path

import pytest

from tapo_core.cli.front import Front, find_front
from tapo_core.errors import UserError

LOCAL = "http://127.0.0.1:4200"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set, and Prefect's profiles are in an empty folder."""
    for name in os.environ:
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("variables", "asked", "page", "base"),
    [
        ({}, f"{LOCAL}/api", LOCAL, "/"),
        (
            {"PREFECT_UI_API_URL": "http://127.0.0.1:9313/api"},
            "http://127.0.0.1:9313/api",
            "http://127.0.0.1:9313",
            "/",
        ),
        ({"PREFECT_SERVER_UI_API_URL": "https://host/lab/api"}, "https://host/lab/api", "https://host/lab", "/"),
        ({"PREFECT_UI_API_URL": "/api"}, "/api", LOCAL, "/"),
        ({"PREFECT_UI_SERVE_BASE": "lab/"}, f"{LOCAL}/api", f"{LOCAL}/lab", "/lab"),
        ({"PREFECT_SERVER_UI_SERVE_BASE": "/"}, f"{LOCAL}/api", LOCAL, "/"),
        (
            {"PREFECT_UI_API_URL": "https://host/prefect/api", "PREFECT_UI_SERVE_BASE": "/lab"},
            "https://host/prefect/api",
            "https://host/lab",
            "/lab",
        ),
        ({"PREFECT_UI_URL": "https://host/x/", "PREFECT_UI_API_URL": "/api"}, "/api", "https://host/x", "/"),
        ({"PREFECT_SERVER_API_BASE_PATH": "/lab/api"}, f"{LOCAL}/lab/api", LOCAL, "/"),
    ],
)
def test_what_is_set_wins(
    variables: dict[str, str], asked: str, page: str, base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = find_front({}).settings(LOCAL, tmp_path)
    assert settings["PREFECT_SERVER_UI_API_URL"] == asked
    assert settings["PREFECT_UI_URL"] == page
    assert settings["PREFECT_SERVER_UI_SERVE_BASE"] == base
    own = f"{LOCAL}{variables.get('PREFECT_SERVER_API_BASE_PATH', '/api')}"
    assert settings["PREFECT_API_URL"] == own, "ours is never the proxy's"
    assert ("PREFECT_SERVER_UI_STATIC_DIRECTORY" in settings) == (base != "/")


def test_the_profile_and_what_the_server_was_started_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = dataclasses.asdict(Front(base="/noted"))
    assert find_front(noted) == Front(base="/noted")
    (tmp_path / "profiles.toml").write_text(
        'active = "lab"\n[profiles.lab]\nPREFECT_SERVER_UI_API_URL = "https://profile/api"\n[profiles.other]\n'
    )
    assert find_front(noted) == Front(api_url="https://profile/api")
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://environment/api")
    assert find_front(noted) == Front(api_url="https://environment/api")
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    monkeypatch.delenv("PREFECT_UI_API_URL")
    assert find_front(noted) == Front(base="/noted")
    (tmp_path / "profiles.toml").write_text("active = ")
    with pytest.raises(UserError, match=r"profiles\.toml: .*mend the file"):
        find_front({})
