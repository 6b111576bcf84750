"""The folders that a command needs beside a run's own, tried before anything heavy is imported: what cannot be written to is told
at once, and not by a library, in its own words, after minutes.
"""

import os
import tempfile
from pathlib import Path

from tapo_core.assets import check_cache
from tapo_core.config import TapoConfig
from tapo_core.errors import UserError
from tapo_core.files import check_folder
from tapo_core.text import one_line

_TEMPORARY = ("TMPDIR", "TEMP", "TMP")  #: in the order in which Python's tempfile asks for them


def check_places() -> None:
    """Try the working directory and the folder of temporary files.

    Raises:
        UserError: one of them is missing or cannot be written to. Nothing was made.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(f"the working directory is gone ({error.strerror}): cd to a folder that exists") from error
    # One that was named has to be there: Python would use another one without a word, and other programs would not.
    named = next((name for name in _TEMPORARY if os.environ.get(name)), None)
    if named is not None:
        folder = Path(os.environ[named])
        advice = f"set {named} to a folder that can be written to"
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: there is no such folder for temporary files; make it, or {advice}")
        check_folder(folder, advice)
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"{one_line(error)}; set TMPDIR to a folder that can be written to") from error


def check_places_of_run(config: TapoConfig | None) -> None:
    """Try also where Prefect keeps its state, the run's folder, and the cache, where the configuration is known already.

    Raises:
        UserError: one of them is missing or cannot be written to. Nothing was made.
    """
    check_places()
    try:
        prefect_home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    except RuntimeError as error:
        raise UserError("this user has no home folder: set HOME, or PREFECT_HOME and TAPO_CACHE") from error
    check_folder(prefect_home, "set PREFECT_HOME (or HOME) to a folder that can be written to")
    if config is not None:
        check_folder(config.run_folder)
        check_cache(config)
