"""A process locks itself in: what it may still ask of the kernel is a short list, and nothing takes that back.

The list is one of what is allowed (seccomp, by libseccomp): a call that nobody thought of is refused. Whoever is confined can
calculate, read and write what it already has open, start threads of its own, and end. It cannot reach a network, start or
signal a process, or change a file; unless `files` says so, it cannot open one either.
"""

import errno
import fcntl
import math
import os
import resource
import sys
import termios
import time
from typing import Any

from tapo_core.errors import UserError


class SandboxError(UserError):
    """This machine cannot confine a process: not Linux, no libseccomp2, or the kernel refuses. The message says which."""


#: Open files at once, of a process that has a handful.
_MAX_OPEN_FILES = 64
_AT_EMPTY_PATH = 0x1000  # newfstatat without a path: fstat of an open file
_CLONE_THREAD = 0x00010000
_CLONE_OTHER = 0x7E020080 | 0x00006000  # CLONE_NEW* (time, mount, cgroup, uts, ipc, user, pid, net), PTRACE, VFORK
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC

_CALCULATE = """
    brk mmap munmap mprotect mremap madvise membarrier
    read readv pread64 write writev lseek close fstat poll ppoll select pselect6
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
    getpid getppid gettid getuid geteuid getgid getegid uname sysinfo getcpu getrandom sched_yield sched_getaffinity
    futex set_robust_list rseq set_tid_address exit exit_group restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
"""
_READ_FILES = """
    stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd
"""


def confine(memory_bytes: int, files: bool = False) -> None:
    """Confine this process, all its threads, for good. For a process that was just started for it.

    Args:
        memory_bytes: what it may map in all (RLIMIT_AS); above that it gets MemoryError.
        files: it may open files for reading, and set itself new limits of processor time: for a worker that runs our code
            and imports modules as it goes. Without it even the import of a module from disk fails.

    Raises:
        SandboxError: the process is not confined, or only partly: end it.
    """
    if sys.platform != "linux":
        raise SandboxError(f"a process can be confined on Linux only, and this is {sys.platform}")
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise SandboxError(
            f"no process can be confined: {error}. Install libseccomp2 and the package pyseccomp"
        ) from error
    try:
        for which, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
            (resource.RLIMIT_AS, memory_bytes),
        ):
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        _filter(pyseccomp, files).load()  # this sets PR_SET_NO_NEW_PRIVS too
    except (OSError, ValueError, MemoryError) as error:
        raise SandboxError(f"the kernel does not let a process be confined (seccomp): {error!r}") from error


def cpu_limit(seconds: float, final: bool = False) -> None:
    """Let the kernel end this process (SIGXCPU) after so much more processor time, rounded up to a whole second.

    Args:
        seconds: from now on, of all threads together.
        final: for a process that may try to live on: SIGKILL a second later, and the limit cannot be raised again once the
            process is confined without `files`.

    Raises:
        SandboxError: the kernel refuses.
    """
    try:
        soft = math.ceil(time.process_time() + seconds)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 1 if final and hard == resource.RLIM_INFINITY else hard))
    except (OSError, ValueError) as error:
        raise SandboxError(f"the kernel does not let a process limit its processor time: {error!r}") from error


def _filter(seccomp: Any, files: bool) -> Any:
    """The list of what is allowed; all else is answered EPERM, calls of another architecture end the process."""
    allowed = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    allowed.set_attr(seccomp.Attr.CTL_TSYNC, 1)  # for all threads of the process
    allowed.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)

    def allow(call: str, *conditions: Any, action: int = seccomp.ALLOW) -> None:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call)
        if number >= 0:  # else this architecture has no such call
            allowed.add_rule(action, number, *conditions)

    def equal(argument: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.EQ, value)

    def bits(argument: int, mask: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)

    for call in _CALCULATE.split():
        allow(call)
    # Threads, but no processes: libc makes threads with clone where there is no clone3, whose flags no filter can see.
    allow("clone", bits(0, _CLONE_THREAD | _CLONE_OTHER, _CLONE_THREAD))
    allow("clone3", action=seccomp.ERRNO(errno.ENOSYS))
    allow("tgkill", equal(0, os.getpid()))  # abort() and its like signal themselves
    allow("ioctl", equal(1, termios.TCGETS))  # isatty(); others can type into a terminal
    for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC):
        allow("fcntl", equal(1, command))  # F_SETOWN can have others signalled
    allow("prlimit64", equal(0, 0), equal(2, 0))  # what its own limits are
    if not files:
        allow("newfstatat", bits(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH))
        return allowed
    for call in _READ_FILES.split():
        allow(call)
    allow("open", bits(1, _WRITES, 0))
    allow("openat", bits(2, _WRITES, 0))
    allow("prlimit64", equal(0, 0), equal(1, resource.RLIMIT_CPU))
    return allowed
