"""Attacks on the isolation: network, privileges, the kernel, and what root keeps to itself."""

from __future__ import annotations

import os
import re
import socket
import subprocess

import pytest

from aem_gym.envs.swe.sandbox.base import Limits
from tests.envs.swe.conftest import Open
from tests.envs.swe.swe_bench import Episode

pytestmark = pytest.mark.docker

_HELP = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    got = libc.syscall(number, *words)
    return got if got >= 0 else os.strerror(ctypes.get_errno())
def attempt(what, *words):
    try: print("SUCCESS", what, what(*words))
    except Exception as error: print("no:", error)
"""
NETWORK = {
    "TCP to the internet": "attempt(socket.create_connection, ('1.1.1.1', 443), 2)",
    "TCP to the engine's gateway": "attempt(socket.create_connection, ('172.17.0.1', 22), 2)",
    "the metadata service": "attempt(socket.create_connection, ('169.254.169.254', 80), 2)",
    "the engine by TCP": "attempt(socket.create_connection, ('127.0.0.1', 2375), 2)",
    "a name": "attempt(socket.getaddrinfo, 'example.com', 443)",
    "IPv6": "attempt(socket.create_connection, ('2606:4700:4700::1111', 443), 2)",
    "UDP": "s = socket.socket(type=socket.SOCK_DGRAM)\nattempt(s.sendto, b'x', ('8.8.8.8', 53))",
    "broadcast": "s = socket.socket(type=socket.SOCK_DGRAM)\ns.setsockopt(1, 6, 1)\n"
    "attempt(s.sendto, b'x', ('255.255.255.255', 9))",
    "raw": "attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "packets": "attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)",
    "the hypervisor": "attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)",
    "the kernel's ciphers": "attempt(socket.socket, socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "the hypervisor, by the old way in": """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b867010000bb28000000b90100000031d2cd80c3"))
place = ctypes.addressof(ctypes.c_char.from_buffer(page))
got = ctypes.CFUNCTYPE(ctypes.c_int)(place)()
print("SUCCESS" if got >= 0 else "no", got)
""",
    "another interface": "print([n for _, n in socket.if_nameindex() if n != 'lo'] or 'no')",
}
KERNEL = {
    "mount": "mount -t tmpfs x /mnt || mount --bind / /mnt || mount -o remount,rw /",
    "umount": "umount /proc/acpi || umount /testbed",
    "a user of its own": "unshare -U true || unshare -r true || unshare -n true || unshare -m true",
    "namespaces of root": "nsenter -t 1 -m true",
    "chroot": "chroot / true",
    "device": "mknod /tmp/disk b 254 0 || mknod /tmp/mem c 1 1",
    "su": "echo | su -c true",
    "another user": "python -c 'import os; os.setuid(0)' ||"
    " python -c 'import os; os.setgroups([])'",
    "setuid": "cp /bin/true /tmp/s && chmod u+s /tmp/s && chown root /tmp/s",
    "setuid of a shell": "cp /bin/bash /tmp/b; chmod 6755 /tmp/b; /tmp/b -pc '[ $EUID != 1000 ]'",
    "memory of root": "cat /proc/1/mem || cat /proc/1/maps || head -c1 /proc/kcore /dev/mem",
    "environment of root": "cat /proc/1/environ /proc/1/cwd/x",
    "folders of root's programs": "ls /proc/1/root/opt/aem || ls /proc/1/fd",
    "release_agent": "echo /tmp/x > /sys/fs/cgroup/memory/release_agent",
    "a cgroup of its own": "mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x",
    "limits of its cgroup": "echo 1000 > /sys/fs/cgroup/pids/pids.max || echo max >"
    " /sys/fs/cgroup/pids.max",
    "sysctl": "echo 1 > /proc/sys/kernel/core_pattern || echo x > /proc/sys/kernel/hostname",
    "sysrq": "echo b > /proc/sysrq-trigger",
    "sys": "echo 1 > /sys/kernel/profiling || echo 1 > /sys/kernel/mm/ksm/run",
    "modules": "modprobe x || insmod /tmp/x || echo x > /proc/sys/kernel/modprobe",
    "the kernel's messages": "dmesg",
    "time": "date -s 2000-01-01",
    "host name": "hostname other; [ $(hostname) = other ]",
    "priority": "nice -n -5 sh -c '[ $(nice) -lt 19 ]' || renice -n -5 $$",
    "out-of-memory order": "echo -1000 > /proc/self/oom_score_adj",
    "the engine": "ls /var/run/docker.sock || ls /run/docker.sock || ls /run/podman",
    "disks": "ls /dev/vda /dev/sda /dev/nvme0 || ls /dev/fuse /dev/kvm /dev/net/tun",
    "its own program": "echo x >> /bin/bash || echo x >> /sbin/docker-init",
    "users": "echo 'x::0:0::/:/bin/sh' >> /etc/passwd",
    "settings": "echo x >> /etc/resolv.conf || echo x >> /etc/hosts || echo x > /etc/ld.so.preload",
    "capabilities": "grep -v 0000000000000000 /proc/self/status | grep -E 'Cap(Prm|Eff|Amb|Inh)'",
    "new privileges": "grep -E 'NoNewPrivs:.0|Seccomp:.0' /proc/self/status",
}
CALLS = {
    "unshare": (272, 0x10000000),
    "clone into a user namespace": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "bpf": (321, 0, 0, 0),
    "userfaultfd": (323, 0),
    "keyctl": (250, 0, -3, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "io_uring_setup": (425, 1, 0),
    "modify_ldt": (154, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "open_tree": (428, -100, 0, 1),
    "ptrace of root's": (101, 16, 1, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "personality without protection": (135, 0x0040000),
    "swapon": (167, 0, 0),
    "reboot": (169, 0xFEE1DEAD, 0, 0, 0),
    "settimeofday": (164, 0, 0),
    "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0),
}


@pytest.mark.parametrize("attack", NETWORK)
def test_there_is_no_network(lasting: Episode, attack: str) -> None:
    ran = lasting.python(f"{_HELP}\n{NETWORK[attack]}", 20)
    assert ran.output
    assert not re.search("^SUCCESS", ran.output, re.M)
    assert "eth" not in ran.output
    lasting.answers()


def test_sockets_of_this_machine_are_out_of_reach(lasting: Episode) -> None:
    name = f"\0aem-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server, socket.socket() as tcp:
        server.bind(name)
        server.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        ran = lasting.python(
            f"{_HELP}\ns = socket.socket(socket.AF_UNIX)\nattempt(s.connect, {name!r})\n"
            f"attempt(socket.create_connection, ('127.0.0.1', {tcp.getsockname()[1]}), 2)"
        )
    assert ran.output.count("no:") == 2


@pytest.mark.parametrize("attack", KERNEL)
def test_there_are_no_privileges(lasting: Episode, attack: str) -> None:
    ran = lasting.sandbox.run(f"({KERNEL[attack]}) 2>&1", 20)
    assert ran.exit_code not in (0, None), ran
    lasting.answers()


@pytest.mark.parametrize("attack", CALLS)
def test_the_kernel_refuses(lasting: Episode, attack: str) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of system calls are those of x86_64")
    words = ", ".join(map(str, CALLS[attack]))
    ran = lasting.python(f"{_HELP}\nprint('got', call({words}))")
    assert ran.output in ("got Operation not permitted\n", "got Function not implemented\n")
    lasting.answers()


def test_sandboxes_do_not_see_each_other(opened: Open, lasting: Episode) -> None:
    other = opened()
    other.run("echo secret > /tmp/secret; python -m http.server 8000 >/dev/null 2>&1 &", 10)
    assert "secret\n" not in lasting.run(
        "cat /tmp/secret 2>/dev/null; ls /tmp /dev/shm /dev/mqueue"
    )
    names = lasting.sandbox.execute(["/bin/sh", "-c", "cat /proc/[0-9]*/comm | sort -u"], 10)
    assert set(names.output.split()) <= {
        "bash",
        "cat",
        "docker-init",
        "podman-init",
        "sh",
        "sleep",
        "sort",
        "tini",
    }


def test_a_network_is_there_where_it_was_asked_for(opened: Open) -> None:
    sandbox = opened(Limits(network=True))
    ran = sandbox.run("python -c 'import socket; print(socket.if_nameindex())'", 20)
    assert "eth0" in ran.output


def test_the_isolation_is_that_of_the_engine(lasting: Episode) -> None:
    """What the engine was told, as it says itself."""
    told = subprocess.run(
        ["docker", "inspect", lasting.sandbox.name], capture_output=True, text=True
    ).stdout
    if not told:
        pytest.skip("no command docker")
    for wall in ('"NetworkMode": "none"', '"ReadonlyRootfs": true', '"Privileged": false'):
        assert wall in told
    assert '"Binds": null' in told or '"Binds": []' in told
    assert '"Mounts": []' in told
