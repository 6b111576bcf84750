"""Commands that a user is told to type, as they can be copied."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable


def program() -> str:
    """What `tapo` is in the user's shell: the path that it was called by, where the shell does not find it by its name."""
    called, found = sys.argv[0], shutil.which("tapo")
    if os.path.basename(called) == "tapo" and (found is None or os.path.realpath(found) != os.path.realpath(called)):
        return shlex.quote(called)
    return "tapo"


def command_line(*arguments: str, overrides: Iterable[str] = ()) -> str:
    """`tapo` with these arguments, and a --set for each override."""
    settings = [part for override in overrides for part in ("--set", override)]
    return f"{program()} {shlex.join([*arguments, *settings])}"
