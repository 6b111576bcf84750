"""What a confined process can and cannot do: each test is a real process that confines itself and tries."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 1 << 30
BEFORE = "import ctypes, errno, os, signal, socket, subprocess, sys, threading, time\n"
BEFORE += "from tapo_core.verification import sandbox\n"
TRY = """
def attempt(name, action):
    try:
        result = action()
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(name, result)

def call(name, *arguments):  # the kernel's call itself, by its number
    import pyseccomp
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
"""


def run(code: str, folder: Path, files: bool = False, memory: int = MEMORY) -> subprocess.CompletedProcess[str]:
    """Run code in a child that has just confined itself; what it prints comes by a pipe."""
    confined = f"sandbox.confine({memory}, files={files})\n"
    return subprocess.run(
        [sys.executable, "-c", BEFORE + TRY + confined + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="a line\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "folder").mkdir()
    return tmp_path


def content(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (path.read_text() if path.is_file() else "", path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


#: Python's ways to reach out, and the kernel's calls that Python has no name for. Signal 0 asks whether one might be sent.
FORBIDDEN = {
    "socket": "socket.socket()",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "socketpair": "socket.socketpair()",
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "subprocess": "subprocess.run(['/bin/true'])",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "kill the parent": "os.kill(os.getppid(), 0)",
    "kill the group": "os.killpg(0, signal.SIGKILL)",
    "write": "open('secret', 'w')",
    "append": "open('secret', 'a')",
    "update": "open('secret', 'r+')",
    "truncate on opening": "os.open('secret', os.O_RDONLY | os.O_TRUNC)",
    "create": "open('new', 'x')",
    "nameless file": "os.open('.', os.O_TMPFILE | os.O_WRONLY)",
    "truncate": "os.truncate('secret', 0)",
    "unlink": "os.unlink('secret')",
    "rename": "os.rename('secret', 'other')",
    "mkdir": "os.mkdir('new')",
    "rmdir": "os.rmdir('folder')",
    "symlink": "os.symlink('secret', 'new')",
    "link": "os.link('secret', 'new')",
    "chmod": "os.chmod('secret', 0)",
    "chown": "os.chown('secret', 1, 1)",
    "utime": "os.utime('secret', (0, 0))",
    "setxattr": "os.setxattr('secret', 'user.a', b'1')",
    "mkfifo": "os.mkfifo('new')",
    "chdir": "os.chdir('/')",
    "memfd": "os.memfd_create('new')",
    "setuid": "os.setuid(0)",
    "more memory": "sandbox.resource.prlimit(0, sandbox.resource.RLIMIT_AS, (-1, -1))",
    "limits of the parent": "sandbox.resource.prlimit(os.getppid(), sandbox.resource.RLIMIT_CPU)",
    "priority": "os.setpriority(os.PRIO_PROCESS, 0, 19)",
    "owner of a pipe": "sandbox.fcntl.fcntl(1, sandbox.fcntl.F_SETOWN, os.getppid())",
    "type into a terminal": "sandbox.fcntl.ioctl(0, sandbox.termios.TIOCSTI, b'x')",
    "signal a thread of the parent": "call('tgkill', os.getppid(), os.getppid(), 0)",
    "tkill": "call('tkill', os.getppid(), 0)",
    "rt_sigqueueinfo": "call('rt_sigqueueinfo', os.getppid(), 0, 0)",
    "pidfd_open": "call('pidfd_open', os.getppid(), 0)",
    "ptrace": "call('ptrace', 16, os.getppid(), 0, 0)",
    "process_vm_readv": "call('process_vm_readv', os.getppid(), 0, 0, 0, 0, 0)",
    "openat2": "call('openat2', -100, b'secret', 0, 0)",
    "open by handle": "call('open_by_handle_at', -100, 0, 0)",
    "io_uring": "call('io_uring_setup', 1, 0)",
    "bpf": "call('bpf', 0, 0, 0)",
    "userfaultfd": "call('userfaultfd', 0)",
    "keyctl": "call('keyctl', 0, 0)",
    "unshare": "call('unshare', 0x10000000)",
    "setns": "call('setns', 0, 0)",
    "mount": "call('mount', b'none', b'folder', b'tmpfs', 0, 0)",
    "vfork": "call('clone', 0x4111, 0, 0, 0, 0)",
    "shared memory": "call('shmget', 0, 4096, 0o1600)",
    "another filter": "call('prctl', 22, 0, 0)",
}


@pytest.mark.parametrize("files", [False, True])
def test_nothing_outside_can_be_reached_or_changed(folder: Path, files: bool) -> None:
    before = content(folder)
    attempts = "".join(f"attempt({name!r}, lambda: {action})\n" for name, action in FORBIDDEN.items())
    done = run(attempts + "print('alive')", folder, files)
    assert done.stdout.splitlines() == [*(f"{name} EPERM" for name in FORBIDDEN), "alive"], done.stderr
    assert content(folder) == before


def test_each_attempt_would_succeed_or_fail_otherwise_without_the_sandbox(folder: Path) -> None:
    """The list above is not one of calls that fail anyway: here are those that need no privilege, unconfined."""
    names = ["socket", "socketpair", "subprocess", "write", "append", "update", "truncate on opening", "mkdir", "chdir"]
    names += [
        "kill the parent",
        "limits of the parent",
        "signal a thread of the parent",
        "tkill",
        "priority",
        "memfd",
        "owner of a pipe",
        "openat2",
    ]
    attempts = "".join(f"attempt({name!r}, lambda: {FORBIDDEN[name]})\n" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + TRY + attempts],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(names), done.stderr
    assert not [line for line in lines if line.endswith("EPERM")]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its second numbering of the calls")
def test_a_call_by_another_numbering_ends_the_process(folder: Path) -> None:
    x32_socket = 0x40000000 + 41
    done = run(f"ctypes.CDLL(None).syscall({x32_socket}, 2, 1, 0)\nprint('went on')", folder)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")


@pytest.mark.parametrize(("files", "expected"), [(False, "EPERM"), (True, "the secret")])
def test_files_are_read_only_if_that_was_asked_for(folder: Path, files: bool, expected: str) -> None:
    code = "attempt('read', lambda: open('secret').read())\nattempt('list', lambda: sorted(os.listdir('.')))\n"
    listed = "['folder', 'secret']" if files else "EPERM"
    assert run(code, folder, files).stdout.splitlines() == [f"read {expected}", f"list {listed}"]


def test_a_module_is_imported_from_disk_only_with_files(folder: Path) -> None:
    code = "import xml.dom.minidom\nprint(xml.dom.minidom.__name__)"
    assert run(code, folder, files=True).stdout == "xml.dom.minidom\n"
    denied = run(code, folder)
    assert denied.returncode == 1
    assert "ModuleNotFoundError" in denied.stderr or "PermissionError" in denied.stderr


def test_no_file_that_is_open_already_gets_content(folder: Path) -> None:
    code = BEFORE + TRY + "file = open('new', 'wb', buffering=0)\nsandbox.confine(1 << 30)\n"
    code += "attempt('write', lambda: file.write(b'x'))\nattempt('cut', lambda: os.ftruncate(file.fileno(), 9))\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["write EFBIG", "cut EPERM"], done.stderr
    assert (folder / "new").read_bytes() == b""


def test_threads_that_run_already_are_confined_too(folder: Path) -> None:
    code = BEFORE + TRY + "confined = threading.Event()\n"
    code += "thread = threading.Thread(target=lambda: (confined.wait(), attempt('list', lambda: os.listdir('.'))))\n"
    code += "thread.start()\nsandbox.confine(1 << 30)\nconfined.set()\nthread.join()"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "list EPERM\n", done.stderr


def test_open_files_are_few_and_there_is_no_core_file(folder: Path) -> None:
    code = "print(sandbox.resource.getrlimit(sandbox.resource.RLIMIT_CORE))\n"
    code += "attempt('copies', lambda: [sandbox.fcntl.fcntl(0, sandbox.fcntl.F_DUPFD_CLOEXEC) for _ in range(100)])"
    assert run(code, folder).stdout.splitlines() == ["(0, 0)", "copies EMFILE"]


def test_calculating_threads_and_standard_streams_work(folder: Path) -> None:
    code = """
results = []
threads = [threading.Thread(target=lambda n=n: results.append(sum(range(n)))) for n in (10, 1000)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(results), sys.stdin.readline().strip(), time.monotonic() > 0, len(os.urandom(4)), 2**200 % 97)
"""
    assert run(code, folder).stdout == f"[45, 499500] a line True 4 {2**200 % 97}\n"


def test_memory_is_limited(folder: Path) -> None:
    code = "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('no memory')\nprint(len(bytearray(1 << 24)))"
    assert run(code, folder, memory=1 << 29).stdout.splitlines() == ["no memory", str(1 << 24)]


def test_abort_ends_the_process_as_ever(folder: Path) -> None:
    assert run("os.abort()", folder).returncode == -signal.SIGABRT


def test_the_kernel_ends_what_calculates_too_long_even_if_it_ignores_the_signal() -> None:
    code = BEFORE + "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nsandbox.cpu_limit(0.1, final=True)\n"
    code += "sandbox.confine(1 << 30)\nwhile True: pass"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60, check=False).returncode == -signal.SIGKILL


def test_a_worker_gives_itself_new_time_for_each_question_and_a_program_cannot(folder: Path) -> None:
    code = "sandbox.cpu_limit(0.5)\n" * 2 + "print('new time')"
    worker = run(code, folder, files=True)
    assert worker.stdout == "new time\n", worker.stderr
    program = run(code, folder)
    assert program.stdout == ""
    assert "SandboxError" in program.stderr


def test_the_limit_counts_from_what_was_used() -> None:
    code = "import resource; from tapo_core.verification.sandbox import cpu_limit\n"
    code += "cpu_limit(300)\nprint(resource.getrlimit(resource.RLIMIT_CPU))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "(301, -1)\n"  # the start of Python took some of the first second


def test_a_process_that_cannot_be_confined_says_so(folder: Path) -> None:
    """Where libseccomp is missing nothing goes on unconfined."""
    code = BEFORE + "sys.modules['pyseccomp'] = None\nsandbox.confine(1 << 30)\nprint('went on')"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Install libseccomp2" in done.stderr


def test_the_symbolic_worker_works_under_it(folder: Path) -> None:
    """LaTeX is parsed and compared, questions come and verdicts go line by line, with new time for each."""
    code = """
import json, logging
import math_verify
logging.disable(logging.CRITICAL)
sandbox.confine(2 << 30, files=True)
for line in sys.stdin:
    sandbox.cpu_limit(20)
    gold, answer = (math_verify.parse(text, parsing_timeout=None) for text in json.loads(line))
    print(json.dumps(math_verify.verify(gold, answer, timeout_seconds=None)), flush=True)
"""
    pairs = [
        (r"$\frac{1}{2}+\sqrt{3}$", r"so \boxed{\sqrt{3}+0.5}", True),
        (r"$(1,2]$", r"$x\in(1,2]$", True),
        (r"$x^2+2x+1$", r"$(x+1)^2$", True),
        (r"$\begin{pmatrix}1&2\\3&4\end{pmatrix}$", r"$\begin{pmatrix}1&2\\3&5\end{pmatrix}$", False),
        (r"$\int_0^1 x\,dx$", r"$\frac{1}{2}$", True),
        (r"$\sin(\frac{\pi}{6})$", r"$\frac{1}{3}$", False),
    ]
    lines = "".join(json.dumps([gold, answer]) + "\n" for gold, answer, _ in pairs)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=lines * 2,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert verdicts == [equal for _, _, equal in pairs] * 2, done.stderr
