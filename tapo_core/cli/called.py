"""Commands that a user is told to type, as they can be copied."""

import os
import shlex
import shutil
import sys


def program() -> str:
    """What `tapo` is in the user's shell: the path that it was called by, where the shell does not find it by its name."""
    called = sys.argv[0]
    found = shutil.which("tapo")
    if os.path.basename(called) != "tapo" or (found is not None and os.path.realpath(found) == os.path.realpath(called)):
        return "tapo"
    return shlex.quote(called)


def command_line(*arguments: str) -> str:
    """`tapo` with these arguments."""
    return f"{program()} {shlex.join(arguments)}"
