"""The verifier `code`: programs run for real, in the sandbox, and nothing outside changes whatever they try."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tapo_core.config_verifier import VerifierConfig
from tapo_core.errors import ConfigError
from tapo_core.records import VerificationOutcome
from tapo_core.verification import code
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.code import CodeVerifier, extract_program
from tapo_core.verification.sandbox import SandboxError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

CORRECT, WRONG = VerificationOutcome.CORRECT, VerificationOutcome.WRONG
NO_ANSWER, UNKNOWN = VerificationOutcome.NO_ANSWER, VerificationOutcome.UNKNOWN
SETTINGS = VerifierConfig(name="code", run_model_code=True, code_tests_seconds=1, memory_mib=512)


def gold(*tests: tuple[str, str]) -> str:
    return json.dumps({"tests": [{"stdin": stdin, "stdout": stdout} for stdin, stdout in tests]})


SUM = gold(("3 4\n", "7\n"), ("-1 1\n", "0\n"))
SEVEN = gold(("", "7\n"))
ADD = "a, b = map(int, input().split())\nprint(a + b)\n"


def question(program: str, tests: str = SEVEN) -> Question:
    return Question("q", tests, f"<think>no</think>So:\n```python\n{program}\n```\n")


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    made = CodeVerifier(SETTINGS)
    yield made
    made.close()


def verdict(verifier: CodeVerifier, program: str, tests: str = SEVEN) -> Verdict:
    (found,) = verifier.verify([question(program, tests)])
    return found


@pytest.mark.parametrize(
    ("text", "finished", "program"),
    [
        ("```python\nprint(1)\n```", True, "print(1)\n"),
        ("```python\nprint(1)\n```\nbetter:\n```python\nprint(2)\n```\n", False, "print(2)\n"),
        ("```py\nprint(1)\n```\n```\nits output\n```", True, "print(1)\n"),
        ("```python\nprint(1)\n", True, "print(1)\n"),
        ("```python\nprint(1)\n", False, None),
        ("```python\nprint(1)\n```\n```python\nprint(", False, "print(1)\n"),
        ("<think>```python\nprint(1)\n```</think>It is 1.", True, None),
        ("<think>\n```python\nprint(1)\n```\n</think>\n```python\nprint(2)\n```", True, "print(2)\n"),
        ("```\nprint(1)\n```", True, None),
        ("```python\n\n```", True, None),
        ("", True, None),
    ],
)
def test_the_program_is_the_last_block_that_was_closed(text: str, finished: bool, program: str | None) -> None:
    assert extract_program(text, finished) == program


def test_without_a_program_there_is_no_answer(verifier: CodeVerifier) -> None:
    (found,) = verifier.verify([Question("q", SUM, "```python\n" + ADD, finished=False)])
    assert (found.outcome, found.extracted_answer, found.tier, found.reason) == (NO_ANSWER, None, "extraction", None)


#: Programs that pass their test, as people and models write them.
PASSING = {
    "input": (ADD, SUM),
    "the open file 0": ("print(sum(map(int, open(0).read().split())))", SUM),
    "sys.stdin and exit": ("import sys\nprint(sum(map(int, sys.stdin.readline().split())))\nexit()", SUM),
    "a main guard": ("if __name__ == '__main__':\n    print(7)", SEVEN),
    "modules": (
        "import math, heapq, datetime, random, decimal, fractions, statistics\nfrom collections import Counter\n"
        "print(datetime.datetime.strptime('2020', '%Y').year - 2013)",
        SEVEN,
    ),
    "a thread with a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(depth(20007) - 20000))\nthread.start()\nthread.join()",
        SEVEN,
    ),
    "spaces at the ends of lines": ("print('7  ')\nprint('\\t')\nprint()", SEVEN),
    "an input that is not read": ("print(7)", gold(("x" * 200_000, "7"))),
    "letters": ("print(input()[::-1])", gold(("äß€\n", "€ßä\n"))),
    "the same order of a set every time": ("print(len({'a', 'b'}) + 5)", SEVEN),
}


def test_programs_that_pass(verifier: CodeVerifier) -> None:
    found = verifier.verify([question(program, tests) for program, tests in PASSING.values()])
    outcomes = {name: (one.outcome, one.tier, one.reason) for name, one in zip(PASSING, found, strict=True)}
    assert outcomes == dict.fromkeys(PASSING, (CORRECT, "tests", None))
    assert found[0].extracted_answer == ADD + "\n"
    assert all(one.milliseconds > 0 for one in found)


FAILING = {
    "another number": "print(8)",
    "nothing": "pass",
    "a line more": "print(7)\nprint(7)",
    "a line before": "print()\nprint(7)",
    "spaces before": "print(' 7')",
    "an exception after the output": "print(7)\n1 / 0",
    "an exit status": "print(7)\nimport sys\nsys.exit(3)",
    "no Python": "print(7",
    "a null byte": "print(7)\0",
    "half a character": "print('\ud800')",
    "too many brackets": "(" * 300,
    "a module that is not there": "import numpy\nprint(7)",
    "endless recursion": "def f():\n    f()\nf()",
    "an endless output": "while True:\n    print('7' * 1000)",
    "a long output": "print('7')\nprint(' ' * (1 << 20))",
}


def test_programs_that_fail_are_wrong(verifier: CodeVerifier) -> None:
    found = verifier.verify([question(program) for program in FAILING.values()])
    outcomes = {name: (one.outcome, one.reason) for name, one in zip(FAILING, found, strict=True)}
    assert outcomes == dict.fromkeys(FAILING, (WRONG, None))


def test_one_failed_test_of_several_is_wrong(verifier: CodeVerifier) -> None:
    assert verdict(verifier, "input()\nprint(7)", SUM).outcome is WRONG


SLEEP = "import time\ntime.sleep(10**6)\n"
#: What is not the program's answer, but the end of what it was given.
UNDECIDED = {
    "while True:\n    pass": "test 1: more than 1 s of processor time",
    "x = bytearray(1 << 30)\nprint(7)": "test 1: more than 512 MiB of memory",
    "x = []\nwhile True:\n    x.append(bytearray(1 << 20))": "test 1: more than 512 MiB of memory",
    "import threading\nthreading.Thread(target=lambda: bytearray(1 << 30)).start()": "test 1: more than 512 MiB of memory",
    "import os\nos.abort()": "test 1: the program was ended by signal 6",
}


def test_what_runs_out_is_unknown(verifier: CodeVerifier) -> None:
    found = verifier.verify([question(program) for program in UNDECIDED])
    assert [(one.outcome, one.tier) for one in found] == [(UNKNOWN, "tests")] * len(UNDECIDED)
    assert [one.reason for one in found] == list(UNDECIDED.values())


@pytest.mark.parametrize("program", [SLEEP, "import os\nos.close(1)\n" + SLEEP])
def test_out_of_time_by_the_clock_is_unknown(
    verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(code, "CLOCK_FACTOR", 1)
    found = verdict(verifier, program)
    assert (found.outcome, found.tier, found.reason) == (UNKNOWN, "tests", "test 1: more than 1 s by the clock")


#: Each prints 7, and so is correct, exactly when the attempt is refused.
REFUSED = """
import os, ctypes
def refused(attempt):
    try:
        attempt()
    except (OSError, ImportError) as error:
        return True
    return False
def run():
    {attempt}
print(7 if refused(run) else "it worked")
"""
ATTEMPTS = {
    "fork": "os.fork()",
    "fork bomb": "\n    while True: os.fork()",
    "a socket": "import _socket; _socket.socket()",
    "the shell": "os.posix_spawn('/bin/sh', ['sh', '-c', 'touch {folder}/new'], {{}})",
    "subprocess": "import subprocess; subprocess.run(['touch', '{folder}/new'])",
    "write": "open('{folder}/kept', 'w').write('x')",
    "create": "open('{folder}/new', 'x')",
    "delete": "os.unlink('{folder}/kept')",
    "rename": "os.rename('{folder}/kept', '{folder}/new')",
    "read": "open('{folder}/kept').read()",
    "list": "os.listdir('{folder}')",
    "the environment of the parent": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "its own folder": "open('here', 'w')",
    "kill": "os.kill(os.getppid(), 0)",
    "kill by ctypes": "if ctypes.CDLL(None).kill(os.getppid(), 0) < 0: raise OSError",
    "unlink by ctypes": "if ctypes.CDLL(None).unlink(b'{folder}/kept') < 0: raise OSError",
    "connect by ctypes": "if ctypes.CDLL(None).socket(2, 1, 0) < 0: raise OSError",
    "the files it came in": "os.write(0, b'x')",
}


def test_programs_reach_and_change_nothing_outside(verifier: CodeVerifier, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    programs = [REFUSED.format(attempt=attempt.format(folder=tmp_path)) for attempt in ATTEMPTS.values()]
    programs.append(f"import os\nos.system('touch {tmp_path}/new')\nprint(7)")  # a status, no exception
    found = verifier.verify([question(program) for program in programs])
    assert {name: one.outcome for name, one in zip([*ATTEMPTS, "system"], found, strict=True)} == dict.fromkeys(
        [*ATTEMPTS, "system"], CORRECT
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "kept")]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No process, no open file, no folder, also of programs that had to be killed. In a process where nobody else opens files."""
    body = f"""
import psutil
from tapo_core.verification import code
this = psutil.Process()
def left():
    return this.num_fds(), this.children(recursive=True)
verifier = code.CodeVerifier(VerifierConfig(**{SETTINGS.model_dump(exclude_defaults=True)!r}))
def outcome(text):
    return verifier.verify([Question("q", {SEVEN!r}, text)])[0].outcome.value
print(outcome({question("print(7)").text!r}))
before = left()
print(outcome({question("while True: print('7' * 1000)").text!r}))
code.CLOCK_FACTOR = 1
print(outcome({question(SLEEP).text!r}))
print("the same" if left() == before else (before, left()))
"""
    with asking(body, tmp_path) as child:
        assert child.communicate()[0].split("\n") == ["correct", "wrong", "unknown", "the same", ""]
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def asking(body: str, temporary: Path) -> Iterator[psutil.Popen]:
    """A process of its own that asks the verifier. `temporary`: where it makes folders."""
    imports = "from tapo_core.config_verifier import VerifierConfig\nfrom tapo_core.verification.base import Question\n"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "TMPDIR": str(temporary)}
    with psutil.Popen([sys.executable, "-c", imports + body], env=env, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def test_a_program_ends_with_whoever_asked(tmp_path: Path) -> None:
    """A run that is killed leaves no program behind that sleeps for ever."""
    body = f"""
from tapo_core.verification.code import CodeVerifier
verifier = CodeVerifier(VerifierConfig(run_model_code=True))
print("made", flush=True)
verifier.verify([Question("q", {SEVEN!r}, {question(SLEEP).text!r})])
"""
    with asking(body, tmp_path) as parent:
        assert parent.stdout.readline() == "made\n"
        sleeping: list[psutil.Process] = []
        while not sleeping:
            assert parent.poll() is None
            sleeping = [child for child in parent.children() if _is_confined(child)]
            time.sleep(0.02)
    gone, alive = psutil.wait_procs(sleeping, timeout=60)
    assert (len(gone), alive) == (1, [])


def _is_confined(process: psutil.Process) -> bool:
    try:
        return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_program_sees_nothing_of_the_environment(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    program = "import os\nprint(sorted(os.environ))"
    assert verdict(verifier, program, gold(("", "['LANG', 'PATH', 'PYTHONHASHSEED']"))).outcome is CORRECT


def test_several_threads_ask_at_once(verifier: CodeVerifier) -> None:
    programs = [f"print({number})" for number in (7, 8, 7)]
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: verifier.verify([question(program) for program in programs]), range(4)))
    assert [[one.outcome for one in batch] for batch in batches] == [[CORRECT, WRONG, CORRECT]] * 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SUM, None),
        ("42", "it must be"),
        ("print", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"tests": []}', "it has no tests"),
        ('{"tests": {}}', "it must be"),
        ('{"tests": [], "more": 1}', "it must be"),
        ('{"tests": [{"stdin": "", "stdout": ""}, {"stdin": ""}]}', "test 2 must be"),
        ('{"tests": [{"stdin": "", "stdout": "", "more": 1}]}', "test 1 must be"),
        ('{"tests": ["7"]}', "test 1 must be"),
        ('{"tests": [{"stdin": "", "stdout": 7}]}', "stdin and stdout of test 1 must be texts"),
        ('{"tests": [{"stdin": "\\ud800", "stdout": ""}]}', "test 1 has half a character"),
        (gold(("", "7" * (code.MAX_OUTPUT + 1))), "test 1 expects 1048577 bytes"),
    ],
)
def test_gold_answers_are_looked_at(verifier: CodeVerifier, text: str, problem: str | None) -> None:
    (found,) = verifier.gold_problems([text])
    assert found is None if problem is None else found is not None and found.startswith(problem)
    if problem is not None:
        judged = verdict(verifier, "print(7)", text)
        assert (judged.outcome, judged.reason) == (UNKNOWN, f"the gold answer: {found}")


def test_programs_are_run_only_where_the_configuration_says_so() -> None:
    with pytest.raises(
        ConfigError, match=r"verifier\.run_model_code is false, and the verifier code runs programs that"
    ):
        CodeVerifier(VerifierConfig(name="code"))


def test_a_machine_that_cannot_confine_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyseccomp.py").write_text("raise RuntimeError('Unable to find libseccomp')")  # as it says itself
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    with pytest.raises(SandboxError, match=r"Unable to find libseccomp\. Install libseccomp2"):
        CodeVerifier(SETTINGS)
