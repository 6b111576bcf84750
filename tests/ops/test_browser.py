"""The Prefect UI in a browser, as an operator uses it: a run started from its form, read, killed, and retried with the button."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tapo_core.store import verified_commits
from tests.browser import chromium, kept_inside, needs_browser, picture
from tests.flows.conftest import NANO
from tests.ops.conftest import Operated
from tests.ops.operating import STAGES, done_once, held, kill, wait_for_reports, wait_for_state, wait_for_task

pytestmark = [pytest.mark.timeout(2400), needs_browser]


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[Browser]:
    """Before any server is brought up in vain."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, operated: Operated) -> Iterator[Page]:
    """The UI's first page."""
    context = browser.new_context(service_workers="block")
    with kept_inside(context) as page:
        page.goto(operated.url)
        yield page
        context.close()


def open_form(page: Page) -> None:
    page.get_by_role("button", name="Deployments").click()
    page.get_by_role("link", name="train", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Custom run").click()


def field(page: Page, title: str) -> Locator:
    """A parameter in the form, with all that belongs to it."""
    label = page.get_by_text(f"{title} (Optional)", exact=True)
    return page.locator(".schema-form-property").filter(has=label)


def fill_form(page: Page, name: str, iterations: int) -> None:
    """The run's name, its iterations, and NANO: the first override as an item of the list, the rest as JSON."""
    field(page, "Run name").get_by_role("button", name="str").click()
    field(page, "Run name").get_by_role("textbox").fill(name)
    field(page, "Iterations").get_by_role("button", name="int").click()
    field(page, "Iterations").get_by_role("spinbutton").fill(str(iterations))
    overrides = field(page, "Overrides")
    overrides.get_by_role("button", name="Add item").click()
    overrides.get_by_role("textbox").fill(NANO[0])
    overrides.get_by_role("button").first.click()
    page.get_by_role("button", name="Use JSON input").click()
    expect(overrides.get_by_role("textbox")).to_have_value(json.dumps(NANO[:1], indent=2))
    overrides.get_by_role("textbox").fill(json.dumps(NANO))


def submit(page: Page) -> str:
    """Start the flow run of the form. Its id; its page is linked where the UI goes then.

    As an operator does, again where the server is busy (SQLite, and another transaction wrote): the UI does not of itself.
    """
    for _ in range(20):
        with page.expect_response("**/create_flow_run") as answered:
            page.get_by_role("button", name="Submit").click()
        if answered.value.status != 503:
            break
    assert answered.value.ok, answered.value.text()
    flow_run_id: str = answered.value.json()["id"]
    expect(page.locator(f'a[href$="/runs/flow-run/{flow_run_id}"]').first).to_be_visible()
    return flow_run_id


def wait_for_shown_state(operated: Operated, page: Page, flow_run_id: str, state: str) -> None:
    """Until the flow run's page, loaded anew, shows it: of itself it asks every 30 seconds, and a short run is over before.

    By its address: after the form the UI goes to the deployment's page when it likes, whatever was clicked meanwhile.
    """
    wait_for_state(operated, flow_run_id, state)
    page.goto(f"{operated.url}/runs/flow-run/{flow_run_id}")
    expect(page.get_by_role("banner").get_by_text(state, exact=True)).to_be_visible()


def open_tab(page: Page, title: str) -> Locator:
    page.get_by_role("tablist").get_by_text(title, exact=True).click()
    return page.get_by_role("tabpanel", name=title)


def test_a_bad_value_is_refused_with_the_form_still_open(operated: Operated, page: Page) -> None:
    open_form(page)
    fill_form(page, "refused", 0)
    field(page, "Overrides").get_by_role("textbox").fill('["update.learning_rate"]')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("0 is not valid under any of the given schemas")).to_be_visible()
    expect(field(page, "Overrides").get_by_role("list").first).to_contain_text(
        re.compile("Index 0.*'update.learning_rate' does not match")
    )
    expect(page).to_have_url(re.compile("/deployments/deployment/.*/run"))
    expect(field(page, "Run name").get_by_role("textbox")).to_have_value("refused")
    picture(page, "1-refused", height=1600)
    assert operated.call("POST", "flow_runs/count", {}) == 0


def test_a_run_is_started_from_the_form_and_read(operated: Operated, page: Page) -> None:
    open_form(page)
    fill_form(page, "first", 1)
    picture(page, "2-form", height=1600)
    busy = {"exception_message": "Service Unavailable"}
    page.route("**/create_flow_run", lambda route: route.fulfill(status=503, json=busy), times=1)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Something went wrong trying to create a flow run").first).to_be_visible()
    flow_run_id = submit(page)
    wait_for_task(operated, flow_run_id, "evaluate 0")
    with held(flow_run_id):
        wait_for_shown_state(operated, page, flow_run_id, "Running")
        picture(page, "3-running")
    wait_for_shown_state(operated, page, flow_run_id, "Completed")
    stages = open_tab(page, "Task Runs")
    for stage in STAGES:
        expect(stages.get_by_role("link", name=f"{stage} 1", exact=True)).to_be_visible()
    page.get_by_role("button", name="Recenter graph").click()
    picture(page, "4-completed")

    artifacts = open_tab(page, "Artifacts")
    artifacts.get_by_role("heading", name="Task runs").scroll_into_view_if_needed()  # which is when they are loaded
    artifacts.get_by_role("link", name="iteration-first").click()
    report = page.get_by_role("article").filter(has_text="Iteration 1 of 1 of run first")
    expect(report.get_by_role("heading", name="Constructed trajectory 1")).to_be_visible()
    expect(report.get_by_role("row", name=re.compile("accuracy of the training rollouts [0-9.]+%"))).to_be_visible()
    expect(report).to_contain_text(re.compile(r"Query:.*Diagnosis:.*Correction:", re.DOTALL))
    picture(page, "5-artifact", height=1600)
    assert done_once(operated.folder / "runs" / "first", 1)


def test_a_killed_run_is_retried_with_the_button(operated: Operated, page: Page) -> None:
    """The same run goes on, and dies in the second iteration of three: in the last it might be over before it is killed."""
    open_form(page)
    fill_form(page, "first", 3)
    flow_run_id = submit(page)
    run = operated.folder / "runs" / "first"
    wait_for_task(operated, flow_run_id, "diagnose_and_correct 2")
    kill(flow_run_id)
    wait_for_shown_state(operated, page, flow_run_id, "Crashed")
    picture(page, "6-crashed")
    before = [(commit.iteration, commit.stage) for commit in verified_commits(run)]
    done = {f"{stage} {iteration}" for iteration, stage in before} & {n for n, _ in operated.task_runs(flow_run_id)}
    assert done >= {"sample 2", "verify 2", "locate_error 2"}
    # What the flow run before made needs no task run in this one.
    assert not done & {"evaluate 0", "update_policy 1"}

    wait_for_reports(operated, flow_run_id)
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    wait_for_shown_state(operated, page, flow_run_id, "Completed")
    stages = open_tab(page, "Task Runs")
    page.get_by_role("button", name="Recenter graph").click()
    picture(page, "7-after-retry")
    for name in done | {"report 1"}:
        # Each is there twice, the newest first.
        tries = stages.locator(".state-list-item__content").filter(has=page.get_by_role("link", name=name, exact=True))
        expect(tries).to_have_count(2)
        expect(tries.first).to_contain_text("Cached")
    tries.first.scroll_into_view_if_needed()
    picture(page, "8-cached")
    assert [(commit.iteration, commit.stage) for commit in verified_commits(run)][: len(before)] == before
    assert done_once(run, 3)
