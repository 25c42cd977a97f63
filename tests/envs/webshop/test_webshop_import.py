"""Importing: what stops it, and that nothing half-built is ever used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from aem_gym.envs.webshop.authoring import steps
from aem_gym.envs.webshop.authoring.builders import NounFinder
from aem_gym.envs.webshop.authoring.data import data_report, import_data, write_dataset
from aem_gym.envs.webshop.dataset import ShopDataError
from aem_gym.envs.webshop.generated.listings import make_listings
from aem_gym.envs.webshop.shops import open_shop
from aem_gym.envs.webshop.stored import open_stored
from aem_gym.errors import ConfigError, MissingDependencyError, OutputError
from tests.test_cli import run

ITEMS = "items_shuffle.json"
SCRIPT = """
import os, resource, signal, sys
from pathlib import Path

from aem_gym import io
from aem_gym.envs.webshop import layout
from aem_gym.envs.webshop.authoring import builders, data, draft, steps

steps._BATCH, steps._BLOCK, builders._CHUNK = 10, 15, 100
left = int(sys.argv[3])

def dying(function):
    def wrapped(*args):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return wrapped

for owner, name in [
    *((draft.ImportDraft, name) for name in ("add", "skip", "commit", "finish", "close")),
    *((builders.IndexBuilder, name) for name in ("add", "finish", "_take", "_merged")),
    *((steps, name) for name in ("write_strings", "ranks", "_empty")),
    *((layout, "digest_file"), (data, "write_manifest"), (data, "settle_folder"), (io, "sync")),
]:
    setattr(owner, name, dying(getattr(owner, name)))
if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
print(data.import_data(Path(sys.argv[1]), Path(sys.argv[2])).made, left)
"""


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_dataset(make_listings(seed=6, products=64), folder)
    rows = json.loads((folder / ITEMS).read_text())
    rows[20:20] = [rows[0], {"asin": "nan"}]
    (folder / ITEMS).write_text(json.dumps(rows))
    return folder


@pytest.fixture
def source(official: Path, tmp_path: Path) -> Path:
    """The files, to be harmed."""
    return Path(shutil.copytree(official, tmp_path / "official"))


def start(source: Path, folder: Path, dies_at: int = 0, most: int | None = None) -> Any:
    """An import in a process of its own, killed at the given one of its steps."""
    command = [sys.executable, "-c", SCRIPT, str(source), str(folder), str(dies_at)]
    command += [] if most is None else [str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_an_import_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    official: Path, tmp_path: Path
) -> None:
    out, err = start(official, tmp_path / "whole").communicate()
    made, left = out.split()
    assert made == "True", err
    all_steps = -int(left)
    assert all_steps > 100
    for first in range(1, all_steps, all_steps // 5):
        folder, killed = tmp_path / f"killed-{first}", 0
        # Each time it gets a little further; the last time to the end.
        for dies_at in (first, all_steps // 3, 7, 60, 0):
            process = start(official, folder, dies_at)
            _, err = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            killed += 1
        assert killed and content(folder) == content(tmp_path / "whole")
    open_stored(tmp_path / "whole", check=True)


def test_what_is_half_built_is_not_used(official: Path, tmp_path: Path) -> None:
    assert start(official, tmp_path / "shop", 100).wait() == -signal.SIGKILL
    assert visible(tmp_path) == ["shop.partial"]
    for folder in (tmp_path / "shop", tmp_path / "shop.partial"):
        with pytest.raises(ShopDataError, match="aem-gym data webshop import DIR"):
            open_stored(folder)
    assert not data_report(str(tmp_path)).complete


@pytest.mark.parametrize("change", ["items", "human", "touched", "option", "database"])
def test_changed_files_start_again(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    assert start(source, tmp_path / "shop", 60).wait() == -signal.SIGKILL
    items, options = source / ITEMS, {}
    if change == "items":
        rows = json.loads(items.read_text())
        items.write_text(json.dumps(rows[1:] + rows[:1]))
    elif change == "human":
        (source / "items_human_ins.json").write_text("{}")
    elif change == "touched":
        os.utime(items, ns=(0, 0))
    elif change == "option":
        options = {"seed": 1}
    else:
        (tmp_path / "shop.partial" / "articles.sqlite").write_text("not a database" * 1000)
    import_data(source, tmp_path / "shop", **options)
    assert "starting again" in caplog.text
    import_data(source, tmp_path / "again", **options)
    assert content(tmp_path / "shop") == content(tmp_path / "again")


def test_what_is_whole_is_kept_and_what_has_changed_is_replaced(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "shop"
    assert import_data(source, folder).made and not import_data(source, folder).made
    assert not caplog.text
    assert import_data(source, folder, num_products=10).items == 10
    assert open_stored(folder).manifest.products == 10 and "have changed" in caplog.text
    (folder / "asins.npy").unlink()
    assert import_data(source, folder, num_products=10).made
    assert visible(tmp_path) == ["official", "shop"]
    open_stored(folder, check=True)


def test_files_that_are_no_shop_are_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex", source):
        with pytest.raises(OutputError, match="something else. Choose another folder with --out$"):
            import_data(source, folder)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_two_imports_at_once(official: Path, tmp_path: Path) -> None:
    processes = [start(official, tmp_path / "shop") for _ in range(2)]
    results = [process.communicate()[0].split()[0] for process in processes]
    assert sorted(results) == ["False", "True"]
    assert visible(tmp_path) == ["shop"] and open_stored(tmp_path / "shop", check=True)


@pytest.mark.parametrize("name", [ITEMS, "items_ins_v2.json", "items_human_ins.json"])
def test_damaged_files_are_named_and_nothing_is_left(
    source: Path, tmp_path: Path, name: str
) -> None:
    whole = (source / name).read_bytes()
    for harm in (whole[: len(whole) // 2], whole + b"]", b"", b"3", whole.replace(b'"', b"'", 1)):
        (source / name).write_bytes(harm)
        with pytest.raises(ShopDataError, match="setup.sh") as raised:
            import_data(source, tmp_path / "shop")
        assert str(source / name) in str(raised.value)
        assert name != ITEMS or "byte" in str(raised.value)
    (source / name).unlink()
    with pytest.raises(ShopDataError, match=r"items_human_ins\.json.*setup\.sh"):
        import_data(source, tmp_path / "shop")
    assert visible(tmp_path) == ["official"]


def test_a_disk_that_is_full(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(official, tmp_path / "shop", 0, most=100_000)
    assert "OutputError: cannot write" in process.communicate()[1] and process.returncode
    assert visible(tmp_path) == []

    def save(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OutputError, match="the disk is full.*--out"):
        import_data(official, tmp_path / "shop")
    assert visible(tmp_path) == []


def test_a_place_that_cannot_be_written(official: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        import_data(official, tmp_path / "file" / "shop")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        return  # root may write everywhere
    with pytest.raises(OutputError, match="you may not write there.*--out"):
        import_data(official, locked / "shop")
    assert visible(locked) == []


def test_nouns_of_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "nouns.json").write_text('{"Red shoes": 3}')
    with pytest.raises(ShopDataError, match="got 3 for 'Red shoes'"):
        import_data(source, tmp_path / "shop", nouns=tmp_path / "nouns.json")
    assert visible(tmp_path) == ["nouns.json", "official"]


def test_nouns_by_spacy(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_BATCH", 10)
    with pytest.raises(ConfigError, match="--nouns, --spacy"):
        import_data(source, nouns=tmp_path, spacy="x")
    try:
        import spacy
    except ImportError:
        with pytest.raises(MissingDependencyError, match="webshop-nouns"):
            import_data(source, tmp_path / "shop", spacy="en_core_web_sm")
        return
    with pytest.raises(ConfigError, match="spacy download"):
        NounFinder("no_such_model")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    ruler.add(patterns=[[{"LENGTH": {">=": 6}}]], attrs={"POS": "NOUN"})
    pipeline.to_disk(tmp_path / "model")
    import_data(source, tmp_path / "shop", spacy=str(tmp_path / "model"))
    shop = open_stored(tmp_path / "shop")
    assert shop.nouns.mode == "spacy"
    for goal in shop.goals[:20]:
        expected = [str(t).lower() for t in pipeline(goal.title) if len(t) >= 6]
        assert list(shop.nouns(goal.title)) == expected


class Shop(gym.Env[str, str]):
    """Not to be played: it imports."""

    import_data = staticmethod(import_data)
    data_report = staticmethod(data_report)


def test_what_was_asked_for_opens_it(official: Path, tmp_path: Path) -> None:
    done = import_data(official, tmp_path / "shop", num_products=30, seed=5)
    assert done.items < 30 and "--env-arg catalogue_seed=5" in done.use
    for number in (30, done.items, None):
        assert len(open_shop(done.place, number, 5, "human").catalogue) == done.items
    with pytest.raises(ConfigError, match="Give catalogue_seed=5"):
        open_shop(done.place, None, 0, "human")


def test_the_command(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gym.register("tests/Shop-v0", entry_point=Shop)
    try:
        command = (
            "data",
            "tests/Shop-v0",
            "import",
            str(official),
            "--out",
            str(tmp_path / "shop"),
        )
        status, out, err = run(capsys, *command)
        assert (status, err) == (0, "") and out.startswith("imported: 64 in ")
        assert "2 could not be used" in out and "skipped.jsonl" in out and "data_dir=" in out
        assert run(capsys, *command)[1].startswith("there already: 64 in ")
        status, out, _ = run(capsys, "data", "tests/Shop-v0", "--data-dir", str(tmp_path / "shop"))
        assert status == 0 and "64 of 64" in out
        status, _, err = run(capsys, *command, "--data-dir", "x")
        assert status == 2 and "--out" in err
        status, _, err = run(capsys, "data", "tests/Shop-v0", "--num-products", "3")
        assert status == 2 and "import DIR --num-products" in err
    finally:
        del gym.registry["tests/Shop-v0"]
    status, _, err = run(capsys, "data", "webshop", "import")
    assert status == 2 and "import DIR" in err
    status, _, err = run(capsys, "data", "gymnasium:CartPole-v1", "import", str(official))
    assert status == 2 and "import_data" in err
