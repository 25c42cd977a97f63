"""The system calls that programs in a sandbox may make: an allowlist for the kernel's filter.

Engines have one of their own, but what it holds depends on their version. Docker 20.10 lets a
sandbox without network talk to the machine's hypervisor (`AF_VSOCK` knows no network namespaces),
and lets it use `io_uring`, which other filters do not see into. Here neither is allowed, nor is
anything that needs a capability, makes namespaces, or is there for debugging the kernel.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aem_gym.io import cache_folder, replace_file

_ALLOWED = """
    accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod
    fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
    fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat get_robust_list
    get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link
    linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier
    memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
    pread64 preadv preadv2 prlimit64 process_mrelease pselect6 ptrace pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg removexattr rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid
    setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
    setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
    truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid
    write writev
"""
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
"""Of sockets; all of these stay in the network namespace."""
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Those that programs for Linux ask for; none that switches a protection off."""
_NAMESPACES = 0x7E020000
"""All the flags of `clone` that make one."""
_NOT_IMPLEMENTED = 38
"""ENOSYS: the C library then does without."""


def option(engine: str) -> str:
    """The filter as an engine takes it in `security_opt`.

    Docker takes the profile itself. podman wants the name of a file where it runs: that is here,
    unless DOCKER_HOST leads to another machine.

    Raises:
        OSError: the file cannot be written.
    """
    text = profile()
    if engine != "podman":
        return f"seccomp={text}"
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = cache_folder().absolute() / "swe" / f"seccomp-{name}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    return f"seccomp={file}"


def profile() -> str:
    """The filter, as the Open Container Initiative writes it."""
    rules: list[dict[str, Any]] = [_allow(*_ALLOWED.split())]
    rules += [_allow("socket", op="SCMP_CMP_EQ", value=n) for n in _FAMILIES.values()]
    rules += [_allow("personality", op="SCMP_CMP_EQ", value=n) for n in _PERSONALITIES]
    rules.append(_allow("clone", op="SCMP_CMP_MASKED_EQ", value=_NAMESPACES))
    # The flags of `clone3` lie in memory, which the filter cannot read.
    rules.append(
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _NOT_IMPLEMENTED, "args": []}
    )
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": _NOT_IMPLEMENTED,
            "syscalls": rules,
        }
    )


def _allow(*names: str, op: str = "", value: int = 0) -> dict[str, Any]:
    args = [{"index": 0, "value": value, "valueTwo": 0, "op": op}] if op else []
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": args}
