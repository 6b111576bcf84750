"""Files that are complete or absent: temporary name, fsync, rename."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tapo_core.errors import UserError
from tapo_core.heartbeat import beat, growing


def fsync(path: Path) -> None:
    """See a file's content, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beat()


def fsync_tree(folder: Path) -> None:
    """Force every file and folder below (and including) a folder to the disk."""
    for path in folder.rglob("*"):
        fsync(path)
    fsync(folder)


def publish_text(file: Path, lines: Iterable[str]) -> None:
    """Write a UTF-8 file, a line break after every line: it appears complete or not at all. An earlier one is replaced.

    Raises:
        UserError: its folder cannot be made or written to.
    """
    make_folder(file.parent)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as opened:
        opened.writelines(f"{line}\n" for line in lines)
    fsync(temporary)
    os.replace(temporary, file)
    fsync(file.parent)


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary sibling to fill; rename it to `folder` when the block ends well.

    An existing `folder` is replaced; a failed block leaves it as it was. A temporary left by a crash is cleared by the
    next attempt.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    make_folder(temporary)
    try:
        with growing(temporary):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder; it goes at once, so that nobody takes what is left of it for a whole one."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)  # of a deletion that a crash cut short
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def check_folder(folder: Path, advice: str = "choose another one or change its permissions") -> None:
    """Make sure that a folder can be written to, or could be made, without making it. `advice`: what to do when it cannot.

    Raises:
        UserError: it cannot.
    """
    nearest = folder.absolute()
    while not os.path.exists(nearest):  # unlike Path.exists, False also where nothing may be looked at
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{folder}: cannot be a folder, because {nearest} is a file; {advice}")
    try:
        _try_to_write(nearest)
    except OSError as error:
        raise UserError(f"{folder}: {nearest} cannot be written to ({error.strerror}); {advice}") from error


def make_folder(folder: Path, advice: str = "choose another one or change its permissions") -> None:
    """Create a folder with its parents. `advice`: what to do when that fails.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the folder ({error.strerror}); {advice}") from error
    try:
        _try_to_write(folder)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be written to ({error.strerror}); {advice}") from error


def _try_to_write(folder: Path) -> None:
    """Make a file that has no name, or loses it at once. Permissions alone tell too little: root has all of them, also on a
    file system that is read-only.
    """
    tempfile.TemporaryFile(dir=folder).close()
