"""The browser that tests of pages use, and where they leave their pictures."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("/usr/bin/chromium")
MISSING = "no chromium: apt-get install --no-install-recommends chromium fonts-dejavu-core"
PICTURES = Path(__file__).resolve().parents[1] / "build" / "screenshots"
WAITS = 300_000  #: milliseconds; a limit against hanging, not a measure: the machine may be busy with other tests
_ARGS = ["--no-sandbox", "--no-first-run"] + [
    f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")
]

#: For tests that cannot do without it; with TAPO_BROWSER_REQUIRED they fail instead.
needs_browser = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("TAPO_BROWSER_REQUIRED"), reason=MISSING)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own."""
    assert CHROMIUM is not None, MISSING
    with sync_playwright() as playwright:
        expect.set_options(timeout=WAITS)  # of itself 5 seconds, whatever a context's default is
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGS)
        yield browser
        browser.close()


@contextmanager
def kept_inside(context: BrowserContext) -> Iterator[Page]:
    """A page that reaches loopback only. That nothing beyond it is asked for, is checked at the end."""
    asked: list[str] = []

    def keep_inside(route: Route) -> None:
        asked.append(route.request.url)
        if is_ours(route.request.url):
            route.continue_()
        else:
            route.abort()

    context.set_default_timeout(WAITS)
    context.route(re.compile("^https?:"), keep_inside)
    page = context.new_page()
    page.on("websocket", lambda socket: asked.append(socket.url))
    yield page
    assert [url for url in asked if not is_ours(url)] == []


def is_ours(url: str) -> bool:
    """Whether an address is one of this machine."""
    return urlsplit(url).hostname == "127.0.0.1"


def picture(page: Page, name: str, height: int = 900) -> None:
    """What is seen of a page now, as a file that CI keeps."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.screenshot(path=PICTURES / f"{name}.png")
