"""Ready images: what is in them, what is not, and what a build leaves that fails."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aem_gym.envs.swe.authoring.images import stored_images
from aem_gym.envs.swe.images.builder import IMAGE, NAME, PARENT, WAY, ImageBuilder, image_id
from aem_gym.envs.swe.images.ensure import base_name, derived_name, ensure_base, ensure_image
from aem_gym.envs.swe.sandbox.base import AGENT, LABEL, PRISTINE, WORKDIR, SandboxError
from aem_gym.envs.swe.sandbox.connect import find
from aem_gym.envs.swe.sandbox.engines import open_engine
from tests.envs.swe.images.swe_images import Lab, write

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the base may have to be built first


def test_a_planned_image_is_laid_out_and_works_without_network(lab: Lab, tmp_path: Path) -> None:
    image = ensure_image(lab.client, lab.plan(tmp_path / "calc"))
    assert lab.labels(image)[IMAGE] == "package"
    assert lab.labels(image)[WAY] == lab.labels(base_name())[WAY]
    assert (
        lab.look(image, f"stat -c %u:%g {PRISTINE} {PRISTINE}/calc.py").split()
        == [f"{AGENT}:{AGENT}"] * 2
    )
    start = f"cp -a {PRISTINE}/. {WORKDIR}/"
    imports = "import calc, pytest; print(calc.__file__, calc.add(1, 2))"
    assert lab.look(image, f"{start} && cd / && python -c '{imports}'").strip() == (
        f"{WORKDIR}/calc.py 3"
    )
    # Whatever shell it is: the same Python, and the tools that a task needs.
    tools = "for t in bash git tar find patch make python3 pip pytest; do command -v $t; done"
    assert len(lab.look(image, tools, AGENT).split()) == 9
    which = "command -v python; bash -lc 'command -v python'; env -i /bin/sh -c 'command -v python'"
    assert set(lab.look(image, which, AGENT).split()) == {"/usr/local/bin/python"}
    assert lab.look(image, "id -un; echo ~", AGENT).split() == ["agent", "/home/agent"]


def test_the_source_is_nowhere_the_agent_can_look(lab: Lab, tmp_path: Path) -> None:
    image = ensure_image(lab.client, lab.plan(tmp_path / "calc"))
    assert lab.look(image, "find / -xdev -name 'calc*.py*' -not -path '/proc/*'").split() == [
        f"{PRISTINE}/calc.py"
    ]
    found = "grep -rlF 'before anybody breaks them' / --exclude-dir=proc --exclude-dir=sys"
    assert lab.look(image, f"{found} 2>/dev/null || true", AGENT) == ""
    assert "Permission denied" in lab.look(image, f"ls {PRISTINE} 2>&1 || true", AGENT)
    assert "Permission denied" in lab.look(image, "ls /root/x 2>&1 || true", AGENT)


def test_nothing_of_the_build_stays(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()  # what the repository itself calls so is its own
    write(tmp_path, {"build/kept.txt": "kept", "setup.py": "", "calc.py": ""})
    commands = (
        "mkdir __pycache__ && touch __pycache__/calc.pyc /tmp/left /var/tmp/left ~/.cachefile",
        "python -c 'import os; assert not os.environ.get(\"AEM_SECRET\")'",
    )
    image = ensure_image(lab.client, lab.plan(tmp_path, *commands))
    left = f"find {PRISTINE} /tmp /var/tmp /home /root/.cache /var/lib/apt/lists -type f"
    found = lab.look(image, f"{left} 2>/dev/null || true", sandbox=False).split()
    assert sorted(found) == [
        f"{PRISTINE}/{name}" for name in ("build/kept.txt", "calc.py", "setup.py")
    ]
    variables = lab.client.images.get(image).attrs["Config"]["Env"]
    assert [variable.partition("=")[0] for variable in variables] == ["PATH"]
    assert lab.labels(image)[LABEL] == ""


def test_an_existing_image_is_found_at_once(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan(tmp_path / "calc")
    lines: list[str] = []
    ensure_image(lab.client, plan, log=lines.append)
    assert any(line.startswith(f"build {plan.name}") for line in lines)
    before = image_id(lab.client, plan.name)
    lines.clear()
    assert ensure_image(lab.client, plan, log=lines.append) == plan.name
    assert ensure_image(lab.client, plan.name, log=lines.append) == plan.name
    assert lines == [] and image_id(lab.client, plan.name) == before


def test_an_engine_logs_the_steps_of_a_build(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = lab.plan(tmp_path / "calc", "echo of pip")
    with contextlib.closing(open_engine("auto")) as engine, caplog.at_level("INFO"):
        engine.image(plan)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"build {plan.name}") for line in lines)
    assert not any(line.startswith("  | ") for line in lines)


def test_a_failed_build_leaves_nothing_and_says_why(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan(tmp_path / "calc", "echo on the way", "echo broken >&2; exit 3")
    with pytest.raises(SandboxError) as failure:
        ensure_image(lab.client, plan)
    told = str(failure.value)
    assert plan.name in told and "exit 3" in told and "exit code 3" in told and "broken" in told
    assert not image_id(lab.client, plan.name)
    assert not [one for one in stored_images(lab.client) if plan.name == one.name]
    assert not _containers_of(lab)
    missing = lab.plan(tmp_path / "calc", packages=("no-such-package-anywhere",))
    with pytest.raises(SandboxError, match="no-such-package-anywhere"):
        ensure_image(lab.client, missing)
    nowhere = lab.plan(tmp_path / "calc").__class__(lab.name(), tmp_path / "nowhere")
    with pytest.raises(SandboxError, match="nowhere"):
        ensure_image(lab.client, nowhere)
    assert not _containers_of(lab)


def test_a_killed_build_leaves_no_half_image(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan(tmp_path / "calc", "echo begun; sleep 600")
    program = (
        "from pathlib import Path; from aem_gym.envs.swe.images.ensure import ensure_image\n"
        "from aem_gym.envs.swe.sandbox.base import ImagePlan\n"
        "from aem_gym.envs.swe.sandbox.connect import find\n"
        f"ensure_image(find().client, ImagePlan({plan.name!r}, Path({str(plan.folder)!r}), "
        f"{plan.install!r}), log=lambda line: print(line, flush=True))"
    )
    ensure_base(lab.client)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert any("begun" in line for line in child.stdout)
    run = [one for one in _containers_of(lab, child.pid)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(run) == 1 and not image_id(lab.client, plan.name)
    with ImageBuilder(lab.client, base_name()):  # the next build clears up
        assert not _containers_of(lab, child.pid)
    assert not _containers_of(lab)


def test_builds_at_the_same_time_make_one_image(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan(tmp_path / "calc", "sleep 1")
    ensure_base(lab.client)
    lines: list[str] = []
    names: list[str] = []

    def build() -> None:
        client = find().client
        names.append(ensure_image(client, plan, log=lines.append))
        client.close()

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == [plan.name] * 3
    assert sum(line.startswith("build ") for line in lines) == 1


def test_an_image_of_others_is_derived_from_and_followed(lab: Lab) -> None:
    foreign = lab.name("foreign")
    _foreign(lab, foreign, "echo one > /testbed/file; adduser --quiet --uid 1000 joe || true")
    lab.names.append(derived_name(foreign))
    first = ensure_image(lab.client, foreign)
    assert first == derived_name(foreign)
    assert lab.labels(first)[PARENT] == image_id(lab.client, foreign)
    look = f"cat {PRISTINE}/file; ls -A {WORKDIR}; stat -c %U {PRISTINE}/file {WORKDIR}"
    assert lab.look(first, look, sandbox=False).split() == ["one", "agent", "agent"]
    before = image_id(lab.client, first)
    assert ensure_image(lab.client, foreign) == first and image_id(lab.client, first) == before
    assert ensure_image(lab.client, first) == first  # it is ready itself
    _foreign(lab, foreign, "echo two > /testbed/file")
    assert ensure_image(lab.client, foreign) == first
    assert lab.look(first, f"cat {PRISTINE}/file").strip() == "two"
    assert not [one for one in stored_images(lab.client) if one.id == before]  # the old one is gone


def test_what_is_built_on_an_image_of_aem_gym_is_somebody_elses(lab: Lab, tmp_path: Path) -> None:
    plan = lab.plan(tmp_path / "calc")
    ready = ensure_image(lab.client, plan)
    own = lab.name("own")
    _foreign(lab, own, "touch /etc/mine", ready)
    assert lab.labels(own)[NAME] == plan.name  # inherited
    names = [one.name for one in stored_images(lab.client)]
    assert plan.name in names and own not in names
    lab.names.append(derived_name(own))
    again = ensure_image(lab.client, own)
    assert lab.look(again, f"ls {PRISTINE} /etc/mine").split() >= ["/etc/mine"]
    assert "calc.py" in lab.look(again, f"ls {PRISTINE}")  # its repository is where it was


def test_an_image_that_cannot_be_had_says_what_to_do(lab: Lab) -> None:
    with pytest.raises(SandboxError, match=r"localhost:1/x:1 is not there.*cannot be reached"):
        ensure_image(lab.client, "localhost:1/x:1")
    with pytest.raises(SandboxError, match="must be lowercase"):
        ensure_image(lab.client, "Not A Name")
    empty = lab.name("empty")
    repository, _, tag = empty.partition(":")
    lab.client.api.import_image_from_data(bytes(10240), repository=repository, tag=tag)
    with pytest.raises(SandboxError, match=f"{empty}: expected an image with a shell"):
        ensure_image(lab.client, empty)
    assert not _containers_of(lab)


def test_a_version_of_python_that_no_way_leads_to(lab: Lab) -> None:
    with pytest.raises(SandboxError) as failure:
        ensure_base(lab.client, "2.1")
    told = str(failure.value)
    assert all(f"  {way}: " in told for way in ("registry", "debian", "interpreter"))
    assert "--from IMAGE" in told
    with pytest.raises(SandboxError, match="expected a version of Python as 3.9, got 'python3'"):
        ensure_base(lab.client, "python3")


@pytest.mark.slow
def test_the_dockerfile_makes_a_base(lab: Lab) -> None:
    own = lab.name("base")
    folder = Path(__file__).parents[4] / "docker" / "swe"
    lab.client.images.build(
        path=str(folder),
        tag=own,
        buildargs={"BASE": ensure_base(lab.client)},
        rm=True,
        forcerm=True,
    )
    assert lab.look(own, "id -un; command -v python", AGENT).split()[:2] == [
        "agent",
        "/usr/local/bin/python",
    ]


def _foreign(lab: Lab, name: str, script: str, image: str = "") -> None:
    """An image that somebody else made, as far as anyone can see."""
    container = lab.client.containers.create(
        image or ensure_base(lab.client), ["sh", "-c", script], user="0", entrypoint=""
    )
    try:
        container.start()
        container.wait()
        repository, _, tag = name.partition(":")
        container.commit(repository, tag)
    finally:
        container.remove(force=True)


def _containers_of(lab: Lab, pid: int | None = None) -> list[str]:
    """Containers in which a process builds; those of sandboxes have a name."""

    def find_them() -> list[str]:
        found = lab.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        found = [one for one in found if not str(one.name).startswith("aem-")]
        return [str(one.id) for one in found if one.labels[LABEL].split("-")[1:2] == [number]]

    number = str(pid or os.getpid())
    deadline = time.monotonic() + 5  # a container that removes itself takes a moment
    while (ids := find_them()) and pid is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return ids
