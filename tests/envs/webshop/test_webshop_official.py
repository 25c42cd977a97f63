"""Official files, read into memory or imported: the same shop through the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aem_gym.envs.webshop.authoring.data import export_games, import_data
from aem_gym.envs.webshop.env import WebShopEnv
from aem_gym.envs.webshop.layout import partial
from aem_gym.envs.webshop.shops import open_shop
from aem_gym.errors import ConfigError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated shop as official files."""
    folder = tmp_path_factory.mktemp("official")
    export_games(folder, games=150)
    return folder


@pytest.fixture(scope="module")
def imported(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "shop"
    assert import_data(files, folder).items == 150
    return folder


def episode(env: WebShopEnv, seed: int) -> list[Any]:
    page, info = env.reset(seed=seed)
    seen: list[Any] = [page, info["goal"]]
    over = False
    while not over:
        action = env.expert()[1]
        page, reward, terminated, truncated, info = env.step(action)
        seen += [action, page, reward, info["admissible_actions"], info["r_type"], info["score"]]
        over = terminated or truncated
    return seen


@pytest.mark.parametrize("goals", ["human", "synthetic"])
def test_files_an_import_and_the_generator_give_the_same_episodes(
    files: Path, imported: Path, goals: str
) -> None:
    shops = [
        WebShopEnv(num_products=150, goals=goals),
        WebShopEnv(data_dir=str(files), goals=goals),
        WebShopEnv(data_dir=str(imported), goals=goals),
    ]
    for seed in range(12):
        first, *others = (episode(env, seed) for env in shops)
        assert first == others[0] == others[1]
    digests = [env.protocol["tasks_digest"] for env in shops]
    assert digests[1] == digests[2] != digests[0]
    sources = [env.protocol["source"] for env in shops]
    assert sources == ["generated (full, seed 0)", str(files), str(imported)]


def test_the_folder_can_be_named_by_a_variable(
    imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBSHOP_DATA", str(imported))
    env = WebShopEnv(source="official")
    assert env.protocol["num_products"] == 150
    monkeypatch.delenv("WEBSHOP_DATA")
    with pytest.raises(ConfigError, match="WEBSHOP_DATA.*items_shuffle"):
        WebShopEnv(source="official")


@pytest.mark.parametrize("wrong", [{"num_products": 7}, {"catalogue_seed": 3}])
def test_an_import_has_its_size_and_seed(imported: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"imported with.*import --help"):
        WebShopEnv(data_dir=str(imported), **wrong)


def test_what_is_missing_is_named(tmp_path: Path, files: Path) -> None:
    with pytest.raises(ConfigError, match=r"items_shuffle\*\.json"):
        WebShopEnv(data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="aem-gym data webshop import"):
        open_shop(str(partial(tmp_path / "shop")), None, 0, "human")
    (tmp_path / "items_shuffle.json").write_bytes((files / "items_shuffle.json").read_bytes()[:-9])
    for name in ("items_ins_v2.json", "items_human_ins.json"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    with pytest.raises(ConfigError, match=r"items_shuffle\.json"):
        WebShopEnv(data_dir=str(tmp_path))


def test_only_the_first_rows_may_be_read(files: Path) -> None:
    env = WebShopEnv(data_dir=str(files), num_products=60)
    assert env.protocol["num_products"] == 60


def test_real_articles_are_sold(test_data: Path) -> None:
    env = WebShopEnv(data_dir=str(test_data / "webshop" / "peer"), goals="synthetic")
    scores = [episode(env, seed)[-1] for seed in range(30)]
    assert sum(score == 1.0 for score in scores) >= 27
    assert env.protocol["num_goals"] == 17_058 and env.protocol["split_goals"] == "1500-17057"
