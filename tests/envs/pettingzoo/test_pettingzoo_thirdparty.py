"""Environments of others: agents that die, masks, turns, images. Extra installs are skipped where they are missing."""

from __future__ import annotations

import os

import pytest
import torch
from toy_envs import actions_of, same_step

from envs import EnvFailure, UserError
from envs.check.verdict import check
from envs.pettingzoo.env import PettingZooEnv

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
pytestmark = pytest.mark.filterwarnings("ignore")  # these packages warn of each other's future


def tictactoe():
    classic = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    from pettingzoo.utils.conversions import turn_based_aec_to_parallel

    return turn_based_aec_to_parallel(classic.env())


def rock_paper_scissors(**options):
    return pytest.importorskip("pettingzoo.classic.rps_v2").parallel_env(**options)


def knights_archers_zombies(**options):
    return pytest.importorskip("pettingzoo.butterfly.knights_archers_zombies_v11").parallel_env(**options)


def pursuit(**options):
    return pytest.importorskip("pettingzoo.sisl.pursuit_v5").parallel_env(**options)


def pistonball(**options):
    pytest.importorskip("pymunk")
    return pytest.importorskip("pettingzoo.butterfly.pistonball_v6").parallel_env(**options)


def multiwalker(**options):
    pytest.importorskip("Box2D")
    return pytest.importorskip("pettingzoo.sisl.multiwalker_v9").parallel_env(**options)


def generated(**options):
    return pytest.importorskip("pettingzoo.test.example_envs.generated_agents_parallel_v0").parallel_env(**options)


def resumes(env: PettingZooEnv, again: PettingZooEnv, generator: torch.Generator, steps: int = 10) -> None:
    again.load_state_dict(env.state_dict())
    for _ in range(steps):
        actions = actions_of(env, generator)
        same_step(env.step(actions), again.step(actions))


@pytest.mark.parametrize("name", ["pettingzoo.classic.rps_v2", "pettingzoo.sisl.pursuit_v5"])
def test_a_parallelizable_aec_environment_plays_as_its_parallel_one(name):
    """`env` of the package returns an AECEnv, `parallel_env` the same as a ParallelEnv."""
    pytest.importorskip(name)
    converted, own = PettingZooEnv(f"{name}:env"), PettingZooEnv(f"{name}:parallel_env")
    assert converted.converted and not own.converted
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(converted.reset(1), own.reset(1))
    for _ in range(20):
        actions = actions_of(own, generator)
        same_step(converted.step(actions), own.step(actions))


@pytest.mark.parametrize("name", ["tictactoe_v3", "connect_four_v3"])
def test_a_real_game_of_turns_is_refused_with_its_conversion(name):
    pytest.importorskip(f"pettingzoo.classic.{name}")
    with pytest.raises(UserError, match=rf"{name}:env' is an AECEnv.*turn_based_aec_to_parallel\(env\)"):
        PettingZooEnv(f"pettingzoo.classic.{name}:env")


def test_knights_archers_zombies_agents_die():
    """It carries a counter of zombies over to the next episode; made anew for each it can be resumed."""
    options = {"max_cycles": 300, "num_knights": 1, "num_archers": 1, "spawn_delay": 3, "max_zombies": 20}
    env = PettingZooEnv(make=knights_archers_zombies, num_envs=2, rebuild=True, **options)
    env.reset(0)
    assert env.spec.horizon == 300 and not env.spec.has_masks and env.spec.obs_size == 5 * 34
    generator = torch.Generator().manual_seed(0)
    alone = ended = 0
    for _ in range(500):
        step = env.step(actions_of(env, generator))
        gone = ~step.active
        alone += int(gone.any(0).sum())
        ended += int(step.done.sum())
        assert not step.final_obs[gone].any() and not step.reward[gone].any() and step.terminated[gone].all()
        assert torch.isfinite(step.final_obs).all()
    assert alone > 5 and ended > 4
    again = PettingZooEnv(make=knights_archers_zombies, num_envs=2, rebuild=True, **options)
    resumes(env, again, generator)


def test_the_check_finds_what_zombies_leave_behind():
    breaches = check(lambda: knights_archers_zombies(spawn_delay=20, max_cycles=110), episodes=2)
    assert len(breaches) == 1 and "in the same environment, after other episodes" in breaches[0]


def test_tictactoe_masks_and_turns():
    env = PettingZooEnv(make=tictactoe, num_envs=4)
    env.reset(0)
    assert env.spec.has_masks and env.spec.obs_size == 18 and env.spec.agents[0].num_actions == 9
    assert env.mask[:, :, 0].sum(-1).tolist() == [[9] * 4, [1] * 4]  # the second player waits: choice 0 alone
    generator = torch.Generator().manual_seed(0)
    rewards, lengths, length = set(), [], torch.zeros(4)
    for _ in range(300):
        step = env.step(actions_of(env, generator))
        length += 1
        lengths += length[step.done].tolist()
        length[step.done] = 0
        rewards |= set(step.reward.flatten().tolist())
        assert bool((step.reward.sum(0) == 0).all())  # never the penalty of an illegal move: masks are obeyed
    assert rewards == {-1.0, 0.0, 1.0} and min(lengths) == 5 and max(lengths) == 9
    resumes(env, PettingZooEnv(make=tictactoe, num_envs=4), generator)


def test_tictactoe_players_may_wait_for_their_turn():
    assert check(tictactoe) == []


def test_rock_paper_scissors():
    env = PettingZooEnv(make=rock_paper_scissors, num_envs=3, max_cycles=4)
    obs = env.reset(0)
    assert env.spec.horizon == 4 and obs.shape == (2, 3, 4) and bool((obs.sum(-1) == 1).all())
    step = env.step(torch.tensor([[[0], [1], [2]], [[2], [2], [2]]]))
    assert step.reward.tolist() == [[-1, 1, 0], [1, -1, 0]] or step.reward.tolist() == [[1, -1, 0], [-1, 1, 0]]
    assert check(rock_paper_scissors) == []
    resumes(env, PettingZooEnv(make=rock_paper_scissors, num_envs=3, max_cycles=4), torch.Generator().manual_seed(0))


def test_pursuit():
    env = PettingZooEnv(make=pursuit, max_cycles=20, n_pursuers=3)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        env.step(actions_of(env, generator))
    resumes(env, PettingZooEnv(make=pursuit, max_cycles=20, n_pursuers=3), generator)


@pytest.mark.slow
def test_pistonball_discrete_images():
    env = PettingZooEnv(make=pistonball, continuous=False, n_pistons=4, max_cycles=5)
    obs = env.reset(0)
    assert float(obs.max()) > 1  # bytes are not scaled
    generator = torch.Generator().manual_seed(0)
    assert [bool(env.step(actions_of(env, generator)).done) for _ in range(5)] == [False] * 4 + [True]


def test_continuous_actions_are_numbers():
    env = PettingZooEnv(make=multiwalker)
    head = env.spec.agents[0].heads[0]
    assert (head.name, head.size, head.low, head.high) == ("move", 4, (-1.0,) * 4, (1.0,) * 4)
    env.reset(0)
    assert env.step(torch.full((3, 1, 4), 0.5)).reward.isfinite().all()


def test_generated_agents_are_refused():
    with pytest.raises(UserError, match=r"no list `possible_agents`.*generate agents are not supported"):
        PettingZooEnv(make=generated)

    def some_named():
        env = generated()
        env.possible_agents = ["type0_0"]
        return env

    env = PettingZooEnv(make=some_named)
    with pytest.raises(EnvFailure, match="is not in possible_agents; environments that generate agents"):
        env.reset(0)
