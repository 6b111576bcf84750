"""The one place that opens what a run needs: assets, session, engines."""

from collections.abc import Iterator
from contextlib import contextmanager

from tapo_core.assets import resolve_assets
from tapo_core.config import TapoConfig
from tapo_core.progress import current_reporter
from tapo_core.revisions import check_same_settings
from tapo_core.session import Flow, Session
from tapo_core.stages.start import start


@contextmanager
def open_run(config: TapoConfig, flow: Flow | None = "train") -> Iterator[tuple[Session, str]]:
    """A run's session and the digest of its start; engines are freed at the end. `flow` None: a run of any flow.

    Raises:
        UserError: the configuration, the data, the model or the folder cannot be used. Nothing was written.
        RunLockedError: another process works on the run. Nothing was written.
    """
    check_same_settings(config)
    session = Session(config, resolve_assets(config, current_reporter().prepare), flow)
    try:
        begun = start(session).chain_digest
        session.watch()
        yield session, begun
    finally:
        session.close()
