"""The verifier `code`: an answer is a Python program, and the gold answer is tests that it has to pass.

The worked example of a verifier that runs what a model wrote. Each test is a new process that confines itself
(`tapo_core.verification.sandbox`) before it looks at the program.
"""

import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import tapo_core
from tapo_core.config_verifier import VerifierConfig
from tapo_core.errors import ConfigError, TransientError
from tapo_core.heartbeat import beat
from tapo_core.records import VerificationOutcome
from tapo_core.verification.answers import after_thinking
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.code_runner import EXIT_MEMORY, READY
from tapo_core.verification.sandbox import SandboxError

#: A program that prints more (bytes) is wrong: no test expects as much.
MAX_OUTPUT = 1 << 20
#: By the clock a test may take so many times its processor time, or a busy machine would change verdicts.
CLOCK_FACTOR = 10
_PROCESSES = 2
_FENCE = re.compile(r"^```(?:python3?|py)[ \t]*\n(.*?)(^```|\Z)", re.MULTILINE | re.DOTALL)
#: The hash seed makes the order of a set of texts the same every time.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c")
_RUNNER = "import sys; sys.path += sys.argv[1:3]; from tapo_core.verification.code_runner import main; main()"


class _UnknownError(Exception):
    """Whether the program passes the test cannot be said; the message says why."""


def extract_program(text: str, finished: bool = True) -> str | None:
    r"""The last block fenced as Python after any closed think block; None when there is none, or an empty one.

    A fence that was never closed reaches to the end of a finished text; in a text that was cut off it does not count.

    >>> extract_program("So:\n```python\nprint(1)\n```\n")
    'print(1)\n'
    """
    program = None
    for fence in _FENCE.finditer(after_thinking(text)):
        if fence[2] or finished:
            program = fence[1]
    return program if program and program.strip() else None


def read_tests(gold: str) -> list[tuple[bytes, bytes]]:
    """Standard input and expected output of each test of a gold answer, ``{"tests": [{"stdin": "", "stdout": ""}]}``.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    try:
        found = json.loads(gold)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(found, dict) or found.keys() != {"tests"} or not isinstance(found["tests"], list):
        raise ValueError('it must be {"tests": [...]} and nothing else')
    if not found["tests"]:
        raise ValueError("it has no tests")
    tests = []
    for number, test in enumerate(found["tests"], 1):
        if not isinstance(test, dict) or test.keys() != {"stdin", "stdout"}:
            raise ValueError(f'test {number} must be {{"stdin": "...", "stdout": "..."}} and nothing else')
        if not isinstance(test["stdin"], str) or not isinstance(test["stdout"], str):
            raise ValueError(f"stdin and stdout of test {number} must be texts")
        try:
            stdin, stdout = test["stdin"].encode(), test["stdout"].encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"test {number} has half a character ({error})") from error
        if len(stdout) > MAX_OUTPUT:
            raise ValueError(f"test {number} expects {len(stdout)} bytes; more than {MAX_OUTPUT} are not read")
        tests.append((stdin, stdout))
    return tests


class CodeVerifier:
    """Runs programs in a sandbox. See docs/verifier.md for what they may do and what is not stopped."""

    name = "code"
    version = "1"

    def __init__(self, settings: VerifierConfig) -> None:
        """Try the sandbox with a program of one line.

        Raises:
            ConfigError: ``verifier.run_model_code`` is not true.
            SandboxError: this machine cannot confine a process.
        """
        if not settings.run_model_code:
            raise ConfigError(
                "verifier.run_model_code is false, and the verifier code runs programs that the model wrote on this machine, "
                "in a sandbox; set it to true if you want that (docs/verifier.md says what the sandbox stops)"
            )
        self._seconds = settings.code_tests_seconds
        self._memory = settings.memory_mib << 20
        try:
            printed = self._run("print(input())", b"sandbox\n")
        except _UnknownError as error:
            raise SandboxError(f"the verifier code cannot run programs here: {error}") from error
        if printed != b"sandbox\n":
            raise SandboxError("the verifier code cannot run programs here: Python does not start in the sandbox")

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """A verdict for each text, in order; two programs run at a time.

        Raises:
            TransientError: no process can be started.
        """
        with ThreadPoolExecutor(_PROCESSES) as pool:
            return list(pool.map(self._timed, questions))

    def gold_problems(self, golds: Sequence[str]) -> list[str | None]:
        """What is wrong with each gold answer, in words; None for tests that programs can be held against."""
        return [_gold_problem(gold) for gold in golds]

    def close(self) -> None:
        """Nothing is held: a process ends with its test."""

    def _timed(self, question: Question) -> Verdict:
        started = time.perf_counter()
        return replace(self._judge(question), milliseconds=1000 * (time.perf_counter() - started))

    def _judge(self, question: Question) -> Verdict:
        program = extract_program(question.text, question.finished)
        if program is None:
            return Verdict(VerificationOutcome.NO_ANSWER, None, "extraction")
        try:
            tests = read_tests(question.gold)
        except ValueError as error:
            return Verdict(VerificationOutcome.UNKNOWN, program, "tests", f"the gold answer: {error}")
        for number, (stdin, expected) in enumerate(tests, 1):
            beat()
            try:
                printed = self._run(program, stdin)
            except _UnknownError as error:
                return Verdict(VerificationOutcome.UNKNOWN, program, "tests", f"test {number}: {error}")
            if printed is None or _lines(printed) != _lines(expected):
                return Verdict(VerificationOutcome.WRONG, program, "tests")
        return Verdict(VerificationOutcome.CORRECT, program, "tests")

    def _run(self, program: str, stdin: bytes) -> bytes | None:
        """What a program prints; None if it fails or prints too much.

        Raises:
            _UnknownError: time or memory ran out, a signal ended it, or the sandbox could not be set up.
            TransientError: no process can be started.
        """
        try:
            with (
                tempfile.TemporaryFile() as program_file,
                tempfile.TemporaryFile() as stdin_file,
                tempfile.TemporaryDirectory(prefix="tapo-code-") as folder,
            ):
                # Files, not pipes: nobody has to feed a program that does not read. It can write to neither.
                for file, content in ((program_file, program.encode(errors="surrogatepass")), (stdin_file, stdin)):
                    file.write(content)
                    file.seek(0)
                return self._run_files(program_file.fileno(), stdin_file.fileno(), folder)
        except OSError as error:
            raise TransientError(f"the verifier code could not start a program: {error}") from error

    def _run_files(self, program: int, stdin: int, folder: str) -> bytes | None:
        report_end, child_end = os.pipe()
        with os.fdopen(report_end, "rb", buffering=0) as report:
            try:
                process = subprocess.Popen(
                    _command(program, child_end, self._seconds, self._memory),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(program, child_end),
                    cwd=folder,
                    env=_ENVIRONMENT,
                    start_new_session=True,
                )
            finally:
                os.close(child_end)
            with process:
                try:
                    printed = _read(process, CLOCK_FACTOR * self._seconds)
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
            os.set_blocking(report.fileno(), False)  # a fork of somebody else's may hold the other end
            said = report.read() or b""
        if said != READY:
            raise _UnknownError(said.decode(errors="replace") or f"the sandbox ended with status {process.returncode}")
        if printed is None:
            return None
        if process.returncode == -signal.SIGXCPU:
            raise _UnknownError(f"more than {self._seconds} s of processor time")
        if process.returncode == EXIT_MEMORY:
            raise _UnknownError(f"more than {self._memory >> 20} MiB of memory")
        if process.returncode < 0:  # a stack that overflows is one of these
            raise _UnknownError(f"the program was ended by signal {-process.returncode}")
        return printed if process.returncode == 0 else None


def _command(*numbers: int) -> list[str]:
    """How the runner is started: without site-packages, but for the folders of our own package and of pyseccomp."""
    found = importlib.util.find_spec("pyseccomp")
    origins = [found.origin if found and found.origin else tapo_core.__file__, tapo_core.__path__[0]]
    folders = [os.path.dirname(origin) for origin in origins]
    return [sys.executable, *_FLAGS, _RUNNER, *folders, *map(str, numbers)]


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """All that a process prints until it has ended; None if that is too much.

    Raises:
        _UnknownError: it has not ended in time, by the clock.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    late = _UnknownError(f"more than {seconds:g} s by the clock")
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    printed = bytearray()
    while len(printed) <= MAX_OUTPUT:
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise late
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise late from None
            return bytes(printed)
        printed += part
    return None


def _lines(printed: bytes) -> list[bytes]:
    """What is compared: lines without the white space at their ends, up to the last that is not empty."""
    return [line.rstrip() for line in printed.rstrip().split(b"\n")]


def _gold_problem(gold: str) -> str | None:
    try:
        read_tests(gold)
    except ValueError as error:
        return str(error)
    return None
