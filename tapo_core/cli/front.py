"""Where browsers find the UI and its API: behind a forward or a reverse proxy that is not where the server listens."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tapo_core.errors import UserError

_STATIC = "PREFECT_SERVER_UI_STATIC_DIRECTORY"


@dataclass(frozen=True)
class Front:
    """What the user has set of it, by Prefect's names for it. None: as the server has it by itself."""

    api_path: str = "/api"  #: where the server has its API
    base: str = ""  #: where it has its UI: nothing, or a path such as /prefect
    api_url: str | None = None  #: that the UI's pages ask
    ui_url: str | None = None  #: that people open, and links lead to

    def page_url(self, local: str) -> str:
        """The address of the UI. `local`: the server's own, without a path."""
        if self.ui_url:
            return self.ui_url.rstrip("/")
        asked = urlsplit(self.api_url or "")
        if not asked.netloc:  # not set, or a path, which is the same at every address
            return f"{local}{self.base}"
        origin = f"{asked.scheme}://{asked.netloc}"
        return f"{origin}{self.base}" if self.base else f"{origin}{asked.path.removesuffix('/').removesuffix('/api')}"

    def settings(self, local: str, home: Path) -> dict[str, str]:
        """Environment of the server and of those who make links. `home`: a folder for the UI's files."""
        settings = {
            "PREFECT_API_URL": f"{local}{self.api_path}",
            "PREFECT_SERVER_API_BASE_PATH": self.api_path,
            "PREFECT_SERVER_UI_API_URL": self.api_url or f"{local}{self.api_path}",
            "PREFECT_SERVER_UI_SERVE_BASE": self.base or "/",
            "PREFECT_UI_URL": self.page_url(local),
        }
        if self.base and _STATIC not in os.environ:
            # Prefect writes the path into these files, and other servers may use the installed ones.
            settings[_STATIC] = str(home / "ui")
        return settings


def find_front(noted: Mapping[str, Any]) -> Front:
    """What is set in the environment or else in Prefect's profile; nothing of it: what the server was last started with.

    Raises:
        UserError: the profiles cannot be read.
    """
    profile = _profile()

    def first(*names: str) -> str | None:
        return next((given[name] for given in (os.environ, profile) for name in names if given.get(name)), None)

    api_path = first("PREFECT_SERVER_API_BASE_PATH")
    base = first("PREFECT_SERVER_UI_SERVE_BASE", "PREFECT_UI_SERVE_BASE")
    found = {
        "api_path": api_path and "/" + api_path.strip("/"),
        "base": base and ("/" + base.strip("/")).rstrip("/"),
        "api_url": first("PREFECT_SERVER_UI_API_URL", "PREFECT_UI_API_URL"),
        "ui_url": first("PREFECT_UI_URL"),
    }
    found = {name: value for name, value in found.items() if value is not None}
    return Front(**(found or noted))


def _profile() -> dict[str, str]:
    """The settings of the user's active Prefect profile; none when there is no file."""
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    file = Path(os.path.expanduser(os.environ.get("PREFECT_PROFILES_PATH") or os.path.join(home, "profiles.toml")))
    try:
        profiles = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}  # most people have none
    except ValueError as error:
        raise UserError(f"{file}: Prefect's profiles cannot be read ({error}); mend the file or delete it") from error
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    return {key: str(value) for key, value in profiles.get("profiles", {}).get(name, {}).items()}
