"""``tapo up | status | down``: Prefect on this machine, for runs that are operated from its UI.

All of it listens on loopback. Its state is in one folder, `.tapo/` beside the runs or $TAPO_HOME: database, logs, results, PIDs.
"""

import base64
import contextlib
import json
import os
import socket
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapo_core.cli.folders import DEMO_CONFIG
from tapo_core.cli.front import Front, find_front
from tapo_core.errors import TransientError, UserError
from tapo_core.files import check_folder, make_folder
from tapo_core.ids import digest
from tapo_core.locks import take_lock
from tapo_core.network import check_proxy_for

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from tapo_core.processes import Daemon

HOST = "127.0.0.1"
_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_OLD_DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
_AUTH = "PREFECT_API_AUTH_STRING"
_SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_NOTIFY = "TAPO_NOTIFY_URL"
_LEASES = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
_SQLITE = "SQLite"
_KEEP_DAYS = 30
_STOP_SECONDS = 40.0  #: that a process may take to end by itself


@dataclass(frozen=True)
class Place:
    """Where `tapo up` keeps its state, and what it was started with."""

    home: Path
    port: int
    database_url: str | None  #: None: SQLite in `home`
    auth: str | None  #: user:password, or none
    front: Front
    keep_days: int  #: that finished flow runs stay in the database; 0: for ever

    @property
    def local(self) -> str:
        """Where the server listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def api(self) -> str:
        """The server's API, as we reach it."""
        return f"{self.local}{self.front.api_path}"

    @property
    def url(self) -> str:
        """Of the UI, as people reach it."""
        return self.front.page_url(self.local)

    def notes(self) -> dict[str, Any]:
        """What later commands have to know of the server."""
        return {
            "port": self.port,
            "database": self.database,
            "auth": self.auth is not None,
            "front": asdict(self.front),
            "keep_days": self.keep_days,
        }

    @property
    def database(self) -> str:
        """Which database, without user and password."""
        return _SQLITE if self.database_url is None else self.database_url.rpartition("@")[2].partition("?")[0]

    def settings(self) -> dict[str, str]:
        """The environment of server, worker, flow runs and of ourselves, beyond what is there already."""
        settings = {
            **self.front.settings(self.local, self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            _DATABASE: self.database_url or f"sqlite+aiosqlite:///{self.home / 'prefect.db'}",
            # Prefect's sessions can wait for each other on SQLite until this is over: half of what clients wait.
            "PREFECT_SERVER_DATABASE_TIMEOUT": "30",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            # Who clicks on Run should not wait for ten. More often costs clicks: each query writes, and SQLite refuses a flow run
            # where another transaction wrote while it was made (the UI does not ask again).
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tapo_core",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_PROMPT": "false",
            "TAPO_FOLDER": str(Path.cwd()),
            # On disk: in memory, a restart forgets which flow runs hold a place, and Prefect then interrupts their stages.
            _LEASES: os.environ.get(_LEASES, "prefect.server.concurrency.lease_storage.filesystem"),
            # The server looks once an hour.
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs" if self.keep_days else "events",
        }
        if self.keep_days:
            settings["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"] = str(self.keep_days * 24 * 3600)
        return settings | ({_AUTH: self.auth, _SERVER_AUTH: self.auth} if self.auth else {})

    def env(self) -> dict[str, str]:
        """The whole environment of a process of ours."""
        kept = {name: value for name, value in os.environ.items() if name not in (_OLD_DATABASE, "PREFECT_API_KEY")}
        return kept | self.settings()


def _home() -> Path:
    return Path(os.environ.get("TAPO_HOME") or ".tapo").absolute()


def _place(record: Mapping[str, Any], port: int | None = None, keep_days: int | None = None) -> Place:
    """The state as this command is to find or make it. `record`: what the server was last started with.

    Raises:
        UserError: the settings are not those that the server was started with.
    """
    auth = os.environ.get(_SERVER_AUTH) or os.environ.get(_AUTH)
    database = os.environ.get(_DATABASE) or os.environ.get(_OLD_DATABASE)
    keep_days = record.get("keep_days", _KEEP_DAYS) if keep_days is None else keep_days
    front = find_front(record.get("front", {}))
    place = Place(_home(), port or record.get("port") or 4200, database, auth, front, keep_days)
    if record and record["database"] != place.database:
        raise UserError(
            f"{place.home} is of a server with the database {record['database']}, not {place.database}: set {_DATABASE} as it "
            "was, or choose another folder with TAPO_HOME"
        )
    if record and record["auth"] and not auth:
        raise UserError(f"the server of {place.home} asks for a password: set {_SERVER_AUTH} to its user:password")
    return place


def up(
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="Of server and UI; 4200, or the one it had before")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that the server may take to answer")] = 180.0,
    keep_days: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"Days after which a flow run that has ended is deleted from Prefect's database; {_KEEP_DAYS}, or as it was "
            "before. 0: never. What is in runs/ stays",
        ),
    ] = None,
) -> None:
    """Bring up Prefect for operating runs: server, UI, deployments, worker. Again: repair what died, leave what runs."""
    from tapo_core.assets import check_cache
    from tapo_core.cli.places import check_places
    from tapo_core.config_file import load_config
    from tapo_core.processes import WORKER_LOG, Daemon

    check_places()
    home = _home()
    make_folder(home, "cd to a folder that can be written to, or set TAPO_HOME to one")
    check_folder(Path("runs"), "cd to a folder that can be written to")
    check_cache(load_config(DEMO_CONFIG))
    webhook = os.environ.get(_NOTIFY) or None
    if webhook is not None:
        check_proxy_for(webhook)
    release = take_lock(home / "up.lock", f"{home}: another tapo up (PID {{}}) is at work; wait for it")
    try:
        server, worker = Daemon(home, "server"), Daemon(home, "worker")
        place = _place(server.record, port, keep_days)
        os.environ.update(place.settings())
        _bring_up_server(place, server, timeout)
        from flows import operations
        from flows.repair import POOL

        runs = worker.process is not None
        env = place.env() | {"TAPO_DEPLOYMENT_VERSION": _version()}
        done = operations.prepare_server(env, _version(), home / "deploy.log", webhook)
        for line in [*done, *operations.repair(worker_runs=runs)]:
            typer.echo(line)
        if not runs:
            name = f"tapo-{socket.gethostname()}"
            command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", name]
            env = place.env() | {WORKER_LOG: str(worker.log)}  # flows/deployed.py prints there
            process = worker.start([sys.executable, "-m", "prefect", *command], env, Path.cwd())
            typer.echo(f"worker started (PID {process.pid})")
            _wait(lambda: _worker_is_heard(place, name), worker, timeout)
    finally:
        release()
    typer.echo(f"{place.url}  (stop with tapo down; how it stands: tapo status)")


def _bring_up_server(place: Place, server: "Daemon", timeout: float) -> None:
    """Start the server unless it runs, and wait until it answers."""
    record = server.record
    if server.process is None:
        _check_port(place.port)
        if record:
            from flows.operations import after_absence

            after_absence()
            if place.database_url is None:
                _shrink(place.home / "prefect.db")
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(place.port)]
        process = server.start(command, place.env(), place.home, **place.notes())
        typer.echo(f"server started (PID {process.pid})")
    elif record["port"] != place.port:
        raise UserError(f"the server runs on port {record['port']} already; tapo down stops it")
    elif differing := [name for name, value in place.notes().items() if record.get(name, value) != value]:
        raise UserError(
            f"the server runs already, with another {differing[0]}; for the new one: tapo down, then tapo up"
        )
    _wait(lambda: _answers(place), server, timeout)


def _shrink(database: Path) -> None:
    """Give the space of deleted rows back when it is most of the file; SQLite itself only uses it again."""
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as connection:
        (free,), (pages,) = (connection.execute(f"PRAGMA {of}").fetchone() for of in ("freelist_count", "page_count"))
        if 2 * free > pages:
            connection.execute("VACUUM")  # refused where the disk has no room for a second copy


def _check_port(port: int) -> None:
    from tapo_core.processes import owner_of_port

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} is taken by {owner_of_port(port)}: stop it, or choose another one with --port"
            ) from error


def _wait(ready: Callable[[], bool], daemon: "Daemon", timeout: float) -> None:
    """Until it is ready.

    Raises:
        TransientError: it ended, or the time is over. The message names the log.
    """
    end = time.monotonic() + timeout
    while True:
        lives = daemon.process is not None
        try:
            if ready():
                return
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise UserError(f"the server does not take the password: set {_SERVER_AUTH} as it was") from error
        except OSError:
            pass  # not yet
        if not lives:
            raise TransientError(f"the {daemon.name} ended before it was ready; {daemon.log} says why")
        if time.monotonic() > end:
            raise TransientError(
                f"the {daemon.name} was not ready in {timeout:g} s (--timeout); see {daemon.log}. It goes on trying: "
                "look again with tapo status, or stop it with tapo down"
            )
        time.sleep(0.3)


def _get(place: Place, path: str, body: object = None) -> Any:
    """Ask the server's API: GET, or POST when there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{place.api}/{path}", data, {"Content-Type": "application/json"})  # noqa: S310
    if place.auth:
        request.add_header("Authorization", f"Basic {base64.b64encode(place.auth.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - always http on loopback
        return json.load(answer)


def _answers(place: Place) -> bool:
    """Whether the server is up, and takes the password: it tells its health to anybody."""
    return _get(place, "health") is True and bool(_get(place, "admin/version"))


def _worker_is_heard(place: Place, name: str) -> bool:
    workers = _get(place, "work_pools/tapo/workers/filter", {})
    return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in workers)


def _version() -> str:
    """Digest of all that shapes the deployments: another one, and they are made anew."""
    import flows

    root = Path(flows.__file__).resolve().parents[1]
    files = [root / "prefect.yaml", root / "flows" / "deployed.py"]
    presets = sorted(path.name for path in (root / "configs").glob("*.toml"))
    return digest([str(Path.cwd()), presets, *(file.read_text(encoding="utf-8") for file in files)])[:12]


def status(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mark as Crashed what Prefect calls Running and is dead")
    ] = False,
) -> None:
    """Show whether server, worker and deployments are up, and which runs run. Exit code 1 when something is amiss."""
    from tapo_core.processes import Daemon

    home = _home()
    server, worker = Daemon(home, "server"), Daemon(home, "worker")
    if not server.record:
        raise UserError(f"nothing was ever started in {home}: tapo up starts it (or set TAPO_HOME to where it was)")
    place = _place(server.record)
    stuck: list[FlowRun] = []
    amiss = [_state_of(daemon) for daemon in (server, worker)].count(False)
    if server.process is not None:
        os.environ.update(place.settings())
        _wait(lambda: _answers(place), server, 10.0)
        typer.echo(f"UI          {place.url}  (database: {place.database})")
        from flows import operations

        if repair:
            for line in operations.repair(worker_runs=worker.process is not None):
                typer.echo(line)
        seen = operations.Seen()
        missing = [name for name in operations.DEPLOYMENTS if name not in seen.deployments]
        typer.echo(f"deployments {', '.join(seen.deployments) or 'none'}")
        typer.echo(f"dead runs   {'are found by their missing heartbeats' if seen.watched else 'are NOT looked for'}")
        amiss += len(missing) + (not seen.watched) + len(seen.dead)
        stuck = [run for run in seen.running if run.id in seen.holders and seen.holders[run.id].is_stuck]
        running = [run for run in seen.running if run not in stuck]
        for title, flow_runs in (
            ("running", running),
            ("stuck", stuck),
            ("waiting", seen.waiting),
            ("dead", seen.dead),
        ):
            for flow_run in flow_runs:
                typer.echo(f"{title:11s} {flow_run.name}  {flow_run.state_name}  {flow_run.id}")
                if holder := seen.holders.get(flow_run.id):
                    typer.echo(f"{'':11s} {holder.told('retry the flow run')}")
        if seen.dead:
            typer.echo("dead: Prefect calls it Running, but its process is gone; tapo status --repair marks it Crashed")
    if amiss:
        typer.echo("something is amiss: tapo up repairs it")
    if amiss or stuck:
        raise typer.Exit(1)


def _state_of(daemon: "Daemon") -> bool:
    process = daemon.process
    if process is None:
        typer.echo(f"{daemon.name:11s} not running; log: {daemon.log}")
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        typer.echo(f"{daemon.name:11s} running since {since}, PID {process.pid}; log: {daemon.log}")
    return process is not None


def down() -> None:
    """Stop worker, flow runs and server. Nothing is lost: after the next tapo up, retry the flow runs that were stopped."""
    from tapo_core.processes import Daemon, stop_processes

    home = _home()
    server, worker = Daemon(home, "server"), Daemon(home, "worker")
    if not server.record:
        raise UserError(f"nothing was ever started in {home} (or set TAPO_HOME to where it was)")
    place = _place(server.record)
    os.environ.update(place.settings())
    if worker.stop(_STOP_SECONDS):
        typer.echo("worker stopped")
    from flows import operations

    stop_processes(operations.flow_run_processes(place.settings()["PREFECT_API_URL"]), _STOP_SECONDS)
    if server.process is not None:
        try:
            for line in operations.repair(worker_runs=False):
                typer.echo(line)
        finally:
            server.stop(_STOP_SECONDS)
            typer.echo("server stopped")
