"""``tapo view``: pages about runs, on loopback."""

import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from tapo_core.errors import UserError
from tapo_core.viewer.urls import HOST, PORT


def view(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, or a folder that runs are in; runs/ when left out")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any that is free")] = PORT,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser")] = False,
) -> None:
    """Serve pages about runs on loopback, also while they train: curves, groups, trajectories in colour, lineage, search, SQL."""
    import uvicorn

    from tapo_core.viewer.app import create_app

    chosen = folders or [Path("runs")]
    for folder in chosen:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. Give the folder of a run, or the one that runs are in.")
    app = create_app(chosen)
    with listening(port) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        typer.echo(f"{address} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """A socket that listens on loopback.

    Raises:
        UserError: the port is taken, or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: {error.strerror}. Give another, or 0 for any that is free.") from error
    return listener
