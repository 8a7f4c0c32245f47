"""Which seeds serve what, and that a configuration is reported once."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from benchmarks import seeds
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError


def config(*words: str):
    return parse(["--env", "simple", *words]).config


@pytest.mark.parametrize("kind", [seeds.RUNS, seeds.EPISODES])
def test_no_seed_serves_two_purposes(kind):
    for one, other in itertools.combinations(kind, 2):
        assert one.first + one.count <= other.first or other.first + other.count <= one.first


def test_purposes_of_seeds():
    of = [seeds.purpose_of(seeds.RUNS, seed) for seed in (0, 999, 1000, 2000, 9_999, 10_000)]
    assert of == ["tuning", "tuning", "retired", "studies", None, "reporting"]
    assert seeds.purpose_of(seeds.EPISODES, 7_999_999) == "tuning"
    assert seeds.require(seeds.RUNS, "tuning", 7) == 7
    with pytest.raises(UserError, match=r"seed 1000 serves retired.*For tuning take one of 0 to 999"):
        seeds.require(seeds.RUNS, "tuning", 1000)


def test_a_configuration_is_reported_once_and_the_next_one_has_new_seeds(tmp_path: Path):
    ledger = tmp_path / "reported.json"
    first = seeds.reserve(config(), ledger)
    assert (first.slot, first.run_seed, first.episodes_seed) == (0, 10_000, 1_000_000_000)
    assert seeds.reserve(config(), ledger) == first  # cut off before its record was written: the same seeds again
    with_other_seed = config("--seed", "5", "--num-replicas", "3", "--logging.progress", "false")
    assert seeds.reserve(with_other_seed, ledger) == first  # what is learned does not differ
    seeds.finish(first, ledger)
    with pytest.raises(UserError, match="A configuration is reported once"):
        seeds.reserve(config(), ledger)
    second = seeds.reserve(config("--maddpg.gamma", "0.5"), ledger)
    assert (second.slot, second.run_seed, second.episodes_seed) == (1, 10_100, 1_001_000_000)
    other = seeds.reserve(parse(["--env", "simple_spread"]).config, ledger)
    assert other.slot == 0  # another task has slots of its own
    assert seeds.find(config("--maddpg.gamma", "0.5"), ledger) == second
    with pytest.raises(UserError, match="nothing to repeat"):
        seeds.find(config("--maddpg.gamma", "0.6"), ledger)
    assert [one.finished for one in seeds.read(ledger)] == [True, False, False]


def test_settings_of_a_world_model_count_where_it_is_on():
    """A run that was kept names the kind of model that was the default in its time, whether it had one or not."""
    plain, other = Config(env="simple"), Config(env="simple", wm=WorldModelConfig(kind="mlp"))
    assert seeds.fingerprint(plain) == seeds.fingerprint(other)
    on, changed = (dataclasses.replace(one, world_model=True) for one in (plain, other))
    assert len({seeds.fingerprint(one) for one in (plain, on, changed)}) == 3


def test_published_slots_are_of_the_reporting_ranges():
    for one in seeds.read():
        assert seeds.purpose_of(seeds.RUNS, one.run_seed) == "reporting"
        assert seeds.purpose_of(seeds.EPISODES, one.episodes_seed) == "reporting"
