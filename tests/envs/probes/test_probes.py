"""Probe environments: optimum and chance by play and enumeration, values by tabular learning, twins by comparison."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from envs import BatchedEnv, UserError, probes
from envs.check.verdict import check
from envs.pettingzoo.env import PettingZooEnv
from envs.streams import Stream

GAMMA = 0.95
NAMES = list(probes.PROBES)
VARIANTS = [(name, {}) for name in NAMES] + [
    ("constant_value", {"agents": 3}),
    ("value_from_observation", {"agents": 3}),
    ("choose_action", {"agents": 2}),
    ("answer_observation", {"agents": 3}),
    ("matching_game", {"goals": 4, "symbols": 2}),
    ("matching_game", {"goals": 2, "symbols": 5}),
    ("witness_game", {"bait": 0.1}),
    ("recall", {"agents": 2, "length": 2}),
]


def uniform_actions(env: BatchedEnv, stream: Stream) -> torch.Tensor:
    """[N, E, H] for environments with one head an agent, or rows of one number each."""
    if env.spec.continuous:
        return 2 * torch.stack([stream.uniform() for _ in env.spec.agents])[:, :, None] - 1
    columns = [stream.integers(agent.heads[0].size) for agent in env.spec.agents]
    return torch.stack(columns)[:, :, None]


def play(env: BatchedEnv, policy, episodes: int) -> torch.Tensor:
    """Mean return [N] of `policy(obs [N, E, O], step)`."""
    obs = env.reset(1)
    total = torch.zeros(env.spec.num_agents)
    for k in range(episodes * env.spec.horizon):
        step = env.step(policy(obs, k % env.spec.horizon))
        total += step.reward.mean(1)
        obs = step.obs
    return total / episodes


def argmax_actions(*columns: torch.Tensor) -> torch.Tensor:
    return torch.stack(columns)[:, :, None]


BEST = {
    "constant_value": lambda obs, t: torch.zeros(*obs.shape[:2], 1, dtype=torch.int64),
    "value_from_observation": lambda obs, t: torch.zeros(*obs.shape[:2], 1, dtype=torch.int64),
    "discounted_value": lambda obs, t: torch.zeros(*obs.shape[:2], 1, dtype=torch.int64),
    "truncated_value": lambda obs, t: torch.zeros(*obs.shape[:2], 1, dtype=torch.int64),
    "choose_action": lambda obs, t: torch.ones(*obs.shape[:2], 1, dtype=torch.int64),
    "answer_observation": lambda obs, t: (
        (obs[..., :3].argmax(-1) + torch.arange(1, len(obs) + 1)[:, None]) % 3
    ).unsqueeze(-1),
    "witness_game": lambda obs, t: torch.ones(*obs.shape[:2], 1, dtype=torch.int64),
}


class BestRecaller:
    """Names at every step what it saw at the first."""

    def __call__(self, obs, t):
        if t == 0:
            self.signs = obs[..., :3].argmax(-1).unsqueeze(-1)
        return self.signs


BEST["recall"] = BestRecaller()
BEST["track_observation"] = lambda obs, t: obs * (-1.0) ** torch.arange(len(obs))[:, None, None]


def best_matcher(goals: int, symbols: int):
    def policy(obs: torch.Tensor, t: int) -> torch.Tensor:
        goal, heard = obs[0, :, :goals].argmax(-1), obs[1, :, :symbols].argmax(-1)
        return argmax_actions(goal % symbols, heard % goals)

    return policy


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_optimum_and_chance_are_reached(name, options):
    env = probes.make(name, num_envs=4000, **options)
    matcher = best_matcher(options.get("goals", 3), options.get("symbols", 3))
    best = matcher if name == "matching_game" else BEST[name]
    optimum, chance = torch.tensor(env.rules.optimum), torch.tensor(env.rules.chance)
    torch.testing.assert_close(play(env, best, 5), optimum, atol=0.02, rtol=0)
    stream = Stream(0, "play", range(4000))
    torch.testing.assert_close(play(env, lambda obs, t: uniform_actions(env, stream), 5), chance, atol=0.02, rtol=0)


@pytest.mark.parametrize(("goals", "symbols"), [(2, 2), (3, 3), (3, 2), (2, 3)])
def test_the_matching_game_optimum_by_enumeration(goals, symbols):
    """Every deterministic speaker and listener; and with a message that is independent of the goal."""
    best = max(
        sum(listener[speaker[goal]] == goal for goal in range(goals)) / goals
        for speaker in itertools.product(range(symbols), repeat=goals)
        for listener in itertools.product(range(goals), repeat=symbols)
    )
    shuffled = {
        sum(listener[heard] == goal for goal in range(goals) for heard in range(symbols)) / goals / symbols
        for listener in itertools.product(range(goals), repeat=symbols)
    }
    rules = probes.PROBES["matching_game"](goals=goals, symbols=symbols)
    assert rules.optimum == (best, best)
    assert {round(value, 12) for value in shuffled} == {round(rules.chance[0], 12)}


def test_shuffled_messages_leave_chance():
    env = probes.make("matching_game", num_envs=6000)
    route = env.spec.routes[0]
    policy, stream = best_matcher(3, 3), Stream(3, "shuffle", [0])

    def shuffled(obs, t):
        obs = obs.clone()
        order = stream.uniform(obs.shape[1])[0].argsort()
        obs[route.receiver, :, route.slot] = obs[route.receiver, order][:, route.slot]
        return policy(obs, t)

    torch.testing.assert_close(play(env, shuffled, 5), torch.full((2,), 1 / 3), atol=0.02, rtol=0)


# ------------------------------------------------------------------ facts about values
def tabular_critics(env: BatchedEnv, policy, central: bool = True, rounds: int = 400) -> list[dict]:
    """Q of every agent by the learner's own equations, averaged over a batch: r + gamma (1 - terminated) Q(final_obs).

    Keys are the observations and actions that the critic sees: all agents', or only its own.
    """
    obs, transitions = env.reset(0), []
    for t in range(2 * env.spec.horizon):
        actions = policy(obs, t % env.spec.horizon)
        step = env.step(actions)
        transitions.append((obs, actions, step, policy(step.final_obs, (t + 1) % env.spec.horizon)))
        obs = step.obs
    tables: list[dict] = [{} for _ in env.spec.agents]
    for _ in range(rounds):
        sums: list[dict] = [{} for _ in env.spec.agents]
        for obs, actions, step, following in transitions:
            for n, table in enumerate(tables):
                seen = slice(None) if central else slice(n, n + 1)
                for e in range(env.num_envs):
                    after = table.get(_key(step.final_obs, following, seen, e), 0.0)
                    target = float(step.reward[n, e]) + GAMMA * (1 - int(step.terminated[n, e])) * after
                    sums[n].setdefault(_key(obs, actions, seen, e), []).append(target)
        updated = [{key: sum(values) / len(values) for key, values in table.items()} for table in sums]
        if updated == tables:
            break
        tables = updated
    return tables


def _key(obs: torch.Tensor, actions: torch.Tensor, seen: slice, e: int) -> tuple:
    return tuple(obs[seen, e].flatten().tolist()), tuple(actions[seen, e].flatten().tolist())


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, o in VARIANTS if name not in ("recall", "track_observation")]
)
def test_facts_are_what_the_bellman_equation_gives(name, options):
    """Observations of three agents with three signs each are too many to meet them all: enough are."""
    env = probes.make(name, num_envs=100, **options)
    stream = Stream(0, "play", range(100))
    tables = tabular_critics(env, lambda obs, t: uniform_actions(env, stream), rounds=60)
    met = 0
    for observations, actions, values in env.rules.facts(GAMMA):
        padded = torch.zeros(env.spec.num_agents, 1, env.spec.obs_size)
        for n, own in enumerate(observations):
            assert len(own) == env.spec.agents[n].obs_size
            padded[n, 0, : len(own)] = torch.tensor(own)
        for n, value in enumerate(values):
            for (seen, played), result in tables[n].items():
                same = actions is None or played == tuple(a[0] for a in actions)
                if same and seen == tuple(padded.flatten().tolist()):
                    met += 1
                    assert result == pytest.approx(value, abs=1e-6)
    assert met >= max(1, len(env.rules.facts(GAMMA)) // 2)


def test_facts_of_numbers():
    """Nobody meets the same number twice: the rules pay what the facts say."""
    rules = probes.PROBES["track_observation"]()
    for observations, numbers, values in rules.facts(GAMMA):
        assert observations == [[0.8], [0.8]]
        assert rules.reward(torch.tensor([[2, 2]]), [torch.tensor(numbers)[:, None]])[:, 0].tolist() == pytest.approx(
            values
        )


def q_of(env: BatchedEnv, table: dict, obs, action: int) -> float:
    return next(v for (seen, played), v in table.items() if seen == tuple(obs) and played == (action,))


def test_truncated_value_tells_three_learners_apart():
    """Right: gamma. Time limit as an end: 0. Observation after the reset: gamma / (6 - 2 gamma)."""
    env = probes.make("truncated_value", num_envs=3000)

    def solve(bootstrap: bool, true_next: bool) -> float:
        obs = env.reset(0)
        step = env.step(torch.zeros(1, 3000, 1, dtype=torch.int64))
        following = step.final_obs if true_next else step.obs
        ends = step.terminated if bootstrap else step.terminated | step.truncated
        value = torch.zeros(3)
        for _ in range(200):
            target = step.reward + GAMMA * ~ends * value[following.argmax(-1)]
            value = torch.stack([target[obs.argmax(-1) == place].mean() for place in range(3)])
        return float(value[0])

    assert solve(True, True) == pytest.approx(GAMMA, abs=1e-5)
    assert solve(False, True) == 0.0
    assert solve(True, False) == pytest.approx(GAMMA / (6 - 2 * GAMMA), abs=0.03)


@pytest.mark.parametrize("trust", [0.5, 0.9])
def test_the_witness_game_needs_the_central_critic(trust):
    """Exact expectations, no sampling: the actor's advantage of choice 1 under either critic.

    p: the actor's probability of 1, q: that the witness answers 1. The independent critic's fixed point has
    Q(0) - Q(1) = bait / 2 for every p and q; the central one gamma q - bait > 0 from the start.
    """
    bait = 0.25
    for p in (0.1, 0.5, 0.9):
        q = trust
        value_0 = value_1 = 0.0  # the independent critic's Q(0), Q(1): both steps look alike, half the samples each
        for _ in range(2000):
            after = (1 - p) * value_0 + p * value_1
            value_0, value_1 = (
                (bait + GAMMA * after) / 2 + p * q / 2,  # first step: no end; second: reward p q whatever it chooses
                (0.0 + GAMMA * after) / 2 + p * q / 2,
            )
        assert value_0 - value_1 == pytest.approx(bait / 2)
        assert GAMMA * q - bait > 0.2


def test_the_witness_game_in_the_adapter_of_both_critics():
    """The same from sampled transitions, with the learner's own targets."""
    env = probes.make("witness_game", num_envs=200)
    stream = Stream(0, "play", range(200))
    policy = lambda obs, t: uniform_actions(env, stream)  # noqa: E731
    alone = tabular_critics(env, policy, central=False, rounds=30)[0]
    assert alone[((1.0, 0.0), (0,))] - alone[((1.0, 0.0), (1,))] == pytest.approx(0.125, abs=0.08)
    together = tabular_critics(env, policy, central=True, rounds=30)[0]
    first = (1.0, 0.0, 0.0, 0.0)
    gain = [together[first, (1, w)] - together[first, (0, w)] for w in range(2)]
    assert all(value == pytest.approx(GAMMA / 2 - 0.25, abs=0.15) for value in gain)


# ------------------------------------------------------------------------ the interface
@pytest.mark.parametrize("name", NAMES)
def test_shapes_flags_and_episodes(name):
    env = probes.make(name, num_envs=5, dtype=torch.float64)
    N, E, O, T = env.spec.num_agents, 5, env.spec.obs_size, env.spec.horizon  # noqa: E741
    obs = env.reset(0)
    stream = Stream(0, "play", range(5))
    for t in range(3 * T):
        step = env.step(uniform_actions(env, stream))
        last = (t + 1) % T == 0
        assert obs.shape == step.obs.shape == step.final_obs.shape == (N, E, O)
        assert obs.dtype == step.reward.dtype == torch.float64 and step.reward.shape == (N, E)
        assert step.terminated.dtype == step.truncated.dtype == torch.bool
        assert bool((step.done == last).all()) and bool(((step.terminated | step.truncated) == last).all())
        assert not (step.terminated & step.truncated).any()
        assert last or torch.equal(step.obs, step.final_obs)
        assert name == "truncated_value" or not step.truncated.any()
        obs = step.obs


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_states(name):
    many = probes.make(name, num_envs=6)
    few = probes.make(name, num_envs=2, rows=[4, 1])
    assert torch.equal(many.reset(9)[:, [4, 1]], few.reset(9))
    assert torch.equal(many.reset(), many.reset(9))
    stream = Stream(0, "play", range(6))
    for _ in range(5):
        actions = uniform_actions(many, stream)
        one, two = many.step(actions), few.step(actions[:, [4, 1]])
        assert torch.equal(one.obs[:, [4, 1]], two.obs) and torch.equal(one.reward[:, [4, 1]], two.reward)
    again = probes.make(name, num_envs=6)
    again.load_state_dict(many.state_dict())
    for _ in range(5):
        actions = uniform_actions(many, stream)
        for a, b in zip(vars(many.step(actions)).values(), vars(again.step(actions)).values(), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_parallel_twin_plays_the_same_game(name, options):
    assert check(lambda: getattr(probes, name)(**options), episodes=1) == []
    twin = PettingZooEnv(f"envs.probes:{name}", num_envs=1, **options)
    direct = probes.make(name, **options)
    assert [(a.name, a.obs_size, a.heads) for a in twin.spec.agents] == [
        (a.name, a.obs_size, a.heads) for a in direct.spec.agents
    ]
    assert twin.spec.routes == direct.spec.routes and twin.spec.horizon == direct.spec.horizon
    assert twin.spec.fixed_agents
    raw = getattr(probes, name)(**options)
    obs, _ = raw.reset(seed=5)
    expected = direct.reset(5)
    stream = Stream(0, "play", [0])
    for _ in range(3 * direct.spec.horizon):
        for agent, rows in direct.split_obs(expected).items():
            assert rows[0].tolist() == obs[agent].tolist()
        actions = uniform_actions(direct, stream)
        step = direct.step(actions)
        ids = {agent: value[0].numpy() for agent, value in direct.decode_actions(actions).items()}
        obs, rewards, terminations, truncations, _ = raw.step(ids)
        assert list(rewards.values()) == pytest.approx(step.reward[:, 0].tolist())
        assert list(terminations.values()) == step.terminated[:, 0].tolist()
        assert list(truncations.values()) == step.truncated[:, 0].tolist()
        expected = step.obs
        if step.done[0]:
            assert raw.agents == []
            obs, _ = raw.reset()


def test_recall_shows_the_sign_once_and_pays_for_it_at_the_end():
    """Whatever a player without memory does in the last step, each of the three signs came before it."""
    env = probes.make("recall", num_envs=300, length=3)
    obs = env.reset(4)
    signs = obs[0].argmax(-1)
    assert sorted(set(signs.tolist())) == [0, 1, 2] and (obs[0].sum(-1) == 1).all()
    for t in range(3):
        assert t == 0 or not obs.any()
        step = env.step(signs[None, :, None])
        assert step.reward.tolist() == [[float(t == 2)] * 300] and bool(step.terminated.all()) == (t == 2)
        obs = step.obs
    assert not step.final_obs.any() and (step.obs[0].sum(-1) == 1).all()
    with pytest.raises(UserError, match="at least 2 steps, got 1"):
        probes.make("recall", length=1)


def test_the_twin_can_be_reset_at_any_time():
    twin = probes.matching_game()
    twin.reset(seed=1)
    twin.step({"speaker_0": 1, "listener_0": 0})
    twin.reset()
    assert twin.agents == ["speaker_0", "listener_0"] and not twin.reset(seed=1)[0]["listener_0"].any()


def test_the_message_is_heard_one_step_later():
    env = probes.make("matching_game", num_envs=3)
    obs = env.reset(0)
    assert not obs[1].any() and obs[0].sum(-1).tolist() == [1, 1, 1]
    step = env.step(torch.tensor([[[0], [1], [2]], [[0], [0], [0]]]))
    assert torch.equal(step.obs[1], torch.eye(3)) and torch.equal(step.obs[0], obs[0]) and not step.reward.any()
    step = env.step(torch.stack([torch.zeros(3, 1, dtype=torch.int64), obs[0].argmax(-1, keepdim=True)]))
    assert step.reward.tolist() == [[1.0] * 3] * 2 and step.terminated.all() and not step.obs[1].any()


def test_unknown_probes_and_options_are_refused():
    with pytest.raises(UserError, match=r"unknown probe 'maching_game'.*Did you mean 'matching_game'"):
        probes.make("maching_game")
    with pytest.raises(UserError, match="at least 2 goals and 2 symbols, got 1 and 3"):
        probes.make("matching_game", goals=1)
    with pytest.raises(UserError, match="one index for each of 2"):
        probes.make("constant_value", num_envs=2, rows=[1])
    with pytest.raises(UserError, match=r"'listener_0'.*got 3"):
        env = probes.make("matching_game")
        env.step(torch.tensor([[[0]], [[3]]]))


def test_probes_are_fast():
    env = probes.make("matching_game", num_envs=1000)
    actions = torch.zeros(2, 1000, 1, dtype=torch.int64)
    env.reset(0)
    start = time.perf_counter()
    for _ in range(100):
        env.step(actions)
    assert 100_000 / (time.perf_counter() - start) > 50_000  # measured 4 to 10 million steps a second on one core
