"""Attacks on root by what it finds when it takes the answer; attempts to see what is hidden."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import pytest

from aem_gym.envs.swe.sandbox.base import Limits, SandboxError
from aem_gym.envs.swe.workspace import MAX_PATCH_BYTES, archive, is_inside, prepare
from tests.envs.swe.conftest import Open
from tests.envs.swe.swe_bench import BROKEN, FIX, Bench, Episode

pytestmark = pytest.mark.docker

TREES = {
    "links out of it": "ln -s /opt/aem/testbed/calc.py a; ln -s /etc/shadow b; ln -s / c;"
    " ln -s /run/aem/git d; ln -s ../../.. e; ln -s loop loop",
    "fifos and sockets": "mkfifo fifo tests/fifo; python -c 'import socket;"
    ' socket.socket(socket.AF_UNIX).bind("sock")\'',
    "names of every kind": "touch $'new\\nline' $'tab\\t' ' ' '*' '-rf' '--help' $'\\377\\376'"
    " ':(exclude)calc.py' ':!calc.py' '\"' \"'\" '$(reboot)' '`id`' 'a;b' $'\\033[2J' ünï",
    "names as git's own": "mkdir -p .GIT/hooks sub/.git/hooks; touch .gitmodules .git~1 .mailmap",
    "a repository inside": "mkdir sub; cd sub; git init -q; touch x; git add .; cd ..",
    "a link for .git": "mv .git /tmp/elsewhere; ln -s /tmp/elsewhere .git",
    "a file for .git": "mv .git /tmp/elsewhere; echo gitdir: /tmp/elsewhere > .git",
    "no .git": "rm -rf .git",
    "a broken .git": "echo x > .git/index; echo x > .git/HEAD; rm -rf .git/objects;"
    " echo [ > .git/config",
    "a lock": "touch .git/index.lock .git/HEAD.lock",
    "hooks": "for h in pre-commit post-index-change fsmonitor-watchman post-checkout; do"
    " printf '#!/bin/sh\\ntouch /tmp/owned\\n' > .git/hooks-$h; mkdir -p .git/hooks;"
    " cp .git/hooks-$h .git/hooks/$h; chmod +x .git/hooks/$h; done;"
    " git config core.hooksPath .git/hooks",
    "settings that run programs": "git config core.fsmonitor 'touch /tmp/owned';"
    " git config filter.x.clean 'touch /tmp/owned'; git config diff.external 'touch /tmp/owned';"
    " git config core.pager 'touch /tmp/owned'; git config alias.add '!touch /tmp/owned';"
    " git config core.sshCommand 'touch /tmp/owned'; git config include.path /tmp/more;"
    " git config diff.x.textconv 'touch /tmp/owned'; echo '* filter=x diff=x text eol=crlf ident'"
    " > .gitattributes; cp .git/config ~/.gitconfig",
    "attributes without end": "yes '* -diff' | head -c 1M > .gitattributes",
    "everything ignored": "echo '*' > .gitignore; git config core.excludesFile /tmp/x",
    "skip-worktree": "git update-index --skip-worktree calc.py;"
    " git update-index --assume-unchanged calc.py",
    "committed": "git add -A; git -c user.name=x -c user.email=x@x commit -qm x; git gc -q",
    "another work tree": "git config core.worktree /tmp; git config core.bare true",
    "no permissions": "chmod 000 tests data; chmod 500 .",
    "immutable times": "touch -d 1970-01-01 *; touch -d 2100-01-01 tests",
    "a file as a folder": "rm -rf data; echo x > data; rm -rf tests; ln -s /tmp tests",
    "a library for all": "echo x > ld.so; ln -s /tmp/x.so libc.so.6; printf '#!/bin/sh\\ntouch"
    " /tmp/owned' > git; chmod +x git; cp git sh; cp git iconv; export PATH=/testbed:$PATH",
    "many folders": "mkdir -p deep && cd deep && for i in $(seq 220);"
    " do mkdir dddddddddddddddddddd; cd dddddddddddddddddddd; done; touch x; cd /testbed",
    "many files": "mkdir many; cd many; seq 5000 | xargs touch; cd ..; echo many > .gitignore",
}
SECRETS = {
    "the image's copy": "cat /opt/aem/testbed/calc.py; ls -R /opt/aem; cd /opt/aem; grep -r add .",
    "root's store": "ls /run/aem; cat /run/aem/git/HEAD /run/aem/index",
    "history": "git log --all -p; git reflog; git fsck --lost-found --unreachable; git stash list;"
    " git cat-file --batch-all-objects --batch",
    "packs": "for f in $(find .git -type f); do python -c 'import sys, zlib;"
    ' print(zlib.decompress(open(sys.argv[1], "rb").read()))\' $f; cat $f; done',
    "caches": "find / -name '*.pyc' -newer /etc/hostname; find / -path '*calc*__pycache__*';"
    " find / -name '.pytest_cache'; ls -a ~ /root; pip cache list",
    "copies of it": "find / -name 'calc*' -not -path '/proc/*' -type f | grep -v ^/testbed"
    " | xargs -r cat; find / -name 'test_calc*' -not -path '/proc/*' | xargs -r cat",
    "anything that holds it": "grep -rIl --exclude-dir=proc --exclude-dir=sys 'test_add_secret' / ",
    "the environment": "env; cat /proc/*/environ; cat /proc/*/cmdline",
    "what root has open": "timeout 5 cat /proc/*/fd/[0-9]; ls -l /proc/*/fd /proc/*/root",
    "temporary folders": "find /tmp /var/tmp /dev/shm /run /home -type f | xargs -r cat",
    "the engine's folders": "grep -o 'lowerdir=[^,]*' /proc/mounts | tr : ' ' | xargs -n1 ls",
}


@pytest.mark.parametrize("tree", TREES)
def test_any_tree_gives_an_answer_and_no_more(bench: Bench, opened: Open, tree: str) -> None:
    sandbox = opened()
    episode = Episode(sandbox, prepare(sandbox, bench.task))
    sandbox.run(f"{FIX}; git status >/dev/null; {TREES[tree]}", 60)
    patch = episode.take()
    assert "+    return a + b" in patch
    for secret in ("test_add_secret", "root:", "core.bare"):
        assert secret not in patch
    assert sandbox.execute(["/bin/sh", "-c", "ls /tmp/owned"], 10).exit_code != 0
    assert sandbox.execute(["/bin/sh", "-c", "find /run/aem -user 1000"], 10).output == ""


@pytest.mark.parametrize(
    "tree",
    [
        "for i in $(seq 12); do head -c 9M /dev/urandom > big$i; done",
        "seq 19000 | xargs touch",
        "rm -rf * .git; cd /; true",
    ],
)
def test_a_tree_that_gives_no_answer_is_no_failure_of_the_sandbox(
    bench: Bench, opened: Open, tree: str
) -> None:
    sandbox = opened(Limits(disk_mb=64, inodes=20_000))
    episode = Episode(sandbox, prepare(sandbox, bench.task))
    episode.sandbox.run(tree, 60)
    assert len(episode.take().encode()) <= MAX_PATCH_BYTES + 1
    episode.answers()


def test_the_answer_can_be_taken_twice(episode: Episode) -> None:
    episode.run(FIX)
    first = episode.take()
    assert episode.take() == first
    assert "+    return a + b" in first


@pytest.mark.parametrize("attempt", SECRETS)
def test_what_is_hidden_stays_hidden(lasting: Episode, attempt: str) -> None:
    output = lasting.sandbox.run(f"({SECRETS[attempt]}) 2>&1 | tr -d '\\0'", 60).output
    for secret in ("a + b", "test_add_secret", "add(2, 2)"):
        assert secret not in output
    lasting.answers()


OVERLAYS: Mapping[str, Mapping[str, bytes]] = {
    "upwards": {"../owned": b"x"},
    "upwards from below": {"tests/../../owned": b"x"},
    "absolute": {"/etc/owned": b"x"},
    "into .git": {".git/hooks/post-checkout": b"x"},
    "NUL": {"a\0b": b"x"},
    "empty": {"": b"x"},
}


@pytest.mark.parametrize("kind", OVERLAYS)
def test_an_overlay_stays_inside(bench: Bench, opened: Open, kind: str) -> None:
    with pytest.raises(ValueError, match="expected a path in the repository"):
        archive(OVERLAYS[kind])
    with pytest.raises((ValueError, SandboxError)):
        prepare(opened(), replace(bench.task, overlay=OVERLAYS[kind]))
    assert not is_inside(next(iter(OVERLAYS[kind])))


def test_what_is_removed_stays_inside(bench: Bench, opened: Open) -> None:
    sandbox = opened()
    removed = ("../tmp/kept", "/tmp/kept", "data/note.txt", "-rf", "nothing")
    sandbox.run("echo kept > /tmp/kept", 10)
    episode = Episode(sandbox, prepare(sandbox, replace(bench.task, removed=removed)))
    assert episode.run("cat /tmp/kept; ls data") == "kept\n"


def test_an_overlay_does_not_follow_links_of_the_image(bench: Bench, opened: Open) -> None:
    """Whoever wrote the repository is not trusted with root either."""
    sandbox = opened()
    sandbox.run("ln -s /tmp/there link; mkdir /tmp/there; ln -s /tmp/file calc2.py", 10)
    overlay = {**bench.task.overlay, "link/owned": b"x", "calc2.py": BROKEN}
    with contextlib.suppress(SandboxError):
        prepare(sandbox, replace(bench.task, overlay=overlay))
    found = sandbox.execute(["/bin/sh", "-c", "ls -A /tmp/there; ls /tmp/file 2>/dev/null"], 10)
    assert found.output == ""
