"""What the viewer refuses, and what every answer tells the browser."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from small_run import CORRECTION_ID, QUERY_ID
from starlette.testclient import TestClient

from tapo_core.viewer import pages_sql, urls
from tapo_core.viewer.security import CONTENT_SECURITY_POLICY, HEADERS
from tests.viewer.conftest import ADDRESS

PAGES = [
    *("/", "/run/small", "/run/small/config", "/run/small/iteration/1", urls.group_url("small", 1, QUERY_ID)),
    *(
        urls.search_url("small", q="7"),
        urls.sql_url("small", "SELECT 1"),
        urls.sql_csv_url("small", "SELECT 1"),
        "/compare",
    ),
    *(
        "/nowhere",
        "/run/nowhere",
        "/run/small/iteration/x",
        "/static/viewer.css",
        "/static/theme.js",
        "/static/none.css",
    ),
]


@pytest.mark.parametrize("address", PAGES)
def test_every_answer_has_the_headers(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    head = client.head(address)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    assert head.headers["content-type"] == answer.headers["content-type"]


def test_the_policy_allows_no_script_of_a_page_and_nothing_from_elsewhere() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["style-src"] == "'self'"
    assert not any(unsafe in CONTENT_SECURITY_POLICY for unsafe in ("unsafe", "http", "*"))


@pytest.mark.parametrize("address", [page for page in PAGES if "csv" not in page and "static" not in page])
def test_pages_keep_to_their_own_policy(client: TestClient, address: str) -> None:
    text = client.get(address).text
    assert " style=" not in text
    assert "<style" not in text
    assert " on" not in {word[:3] for word in text.split("<") if " on" in word.partition(">")[0]}
    assert "<script>" not in text
    assert "//" not in "".join(part.partition('"')[0] for part in text.split('src="')[1:])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_but_reading_is_allowed(client: TestClient, method: str) -> None:
    answer = client.request(method, "/run/small")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1", "10.0.0.1"]
)
def test_other_hosts_are_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "small" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765"])
def test_loopback_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("name", ["../small", "%2e%2e", "/etc", "small/../small", "small/store", "\x00", ".hidden"])
def test_a_name_of_a_run_is_never_a_path(client: TestClient, name: str) -> None:
    for page in ("", "/config", "/search", "/sql?q=SELECT+1"):
        assert client.get(f"/run/{quote(name, safe='')}{page}").status_code == 404


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/%2e%2e/errors.py", "/etc/passwd", "....//app.py"])
def test_static_files_are_those_of_their_folder(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '{file}.copy'",
        "ATTACH '{file}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA enable_external_access = true",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW verdict",
        "SELECT * FROM runs_folder",
        "SELECT getenv('HOME')",
        "EXPORT DATABASE '{file}.folder'",
    ],
)
def test_sql_reaches_nothing_but_the_store(client: TestClient, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("the secret\n1\n")
    asked = statement.format(file=secret)
    for address in (urls.sql_url("small", asked), urls.sql_csv_url("small", asked)):
        answer = client.get(address)
        assert answer.status_code == 400
        assert "the secret" not in answer.text
    assert [file.name for file in tmp_path.iterdir()] == ["secret.csv"]


def test_sql_is_stopped_after_its_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_sql, "LIMIT_SECONDS", 0.2)
    endless = "SELECT count(*) FROM range(100000000) a, range(100000000) b"
    answer = client.get(urls.sql_url("small", endless))
    assert answer.status_code == 400
    assert "stopped after 0.2 s" in answer.text


def test_sql_with_too_many_rows_is_told_so(client: TestClient) -> None:
    answer = client.get(urls.sql_url("small", "SELECT * FROM range(1001)"))
    assert answer.status_code == 400
    assert "more than 1000 rows" in answer.text


def test_results_of_sql_are_a_table_and_a_csv(client: TestClient) -> None:
    statement = "SELECT k, text FROM rollout WHERE kind = 'training' ORDER BY k"
    answer = client.get(urls.sql_url("small", statement))
    assert "7 + 12 = 18. The answer is 18." in answer.text
    assert "4 rows" in answer.text
    csv = client.get(urls.sql_csv_url("small", statement))
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.headers["content-disposition"].startswith("attachment")
    assert csv.text.splitlines()[:2] == ["k,text", "0,7 + 12 = 19. The answer is 19."]


def test_markup_in_a_question_is_shown_as_text(client: TestClient) -> None:
    markup = "'</textarea><script>alert(1)</script>"
    for address in (
        urls.sql_url("small", markup),
        urls.search_url("small", q=markup),
        urls.compare_url(markup, markup),
    ):
        text = client.get(address).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_tapo_view_listens_on_loopback_alone_and_ends_when_told(runs_folder: Path) -> None:
    code = "from tapo_core.cli.main import main; main()"
    command = [sys.executable, "-c", code, "view", str(runs_folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert address.startswith(f"{ADDRESS}:")
            with urllib.request.urlopen(
                address + urls.trajectory_url("small", CORRECTION_ID)[1:].partition("/tr")[0]
            ) as answer:
                assert b"small" in answer.read()
            port = int(address.rsplit(":", 1)[1].strip("/"))
            with socket.socket() as other, pytest.raises(OSError, match="refused"):
                other.connect((socket.gethostbyname(socket.gethostname()).replace("127.0.0.1", "127.0.0.2"), port))
        finally:
            process.terminate()


def test_tapo_view_refuses_what_is_no_folder_and_a_port_that_is_taken(tmp_path: Path) -> None:
    code = "from tapo_core.cli.main import main; main()"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, says in (
            ([str(tmp_path / "gone")], "no such folder"),
            ([str(tmp_path), "--port", port], "--port"),
        ):
            command = [sys.executable, "-c", code, "view", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert says in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
