"""The rules of the probe environments; `envs.probes` says what each is for and plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from envs.errors import UserError
from envs.spec import AgentSpec, EnvSpec, Head, Route

History = list[Tensor]  # the joint actions [N, E, H] of the running episode; rows [N, E, A] of numbers
Fact = tuple[list[list[float]], Sequence[Sequence[float]] | None, list[float]]


@dataclass(frozen=True)
class Rules:
    """A game of a fixed number of steps whose only randomness is drawn when an episode starts."""

    spec: EnvSpec
    optimum: tuple[float, ...]  # return of each agent under the best joint policy
    chance: tuple[float, ...]  # return of each agent when all choose uniformly
    highs: tuple[int, ...]  # C numbers are drawn at the start: the c-th one uniformly below highs[c]
    observe: Callable[[Tensor, History], list[Tensor]]  # drawn [E, C], played so far -> [E, own width] of each agent
    reward: Callable[[Tensor, History], Tensor]  # drawn [E, C], played with this step's actions -> [N, E]
    facts: Callable[[float], list[Fact]]  # gamma -> (observation and action (None: any) of each agent, value of each)
    truncated: Callable[[Tensor], Tensor] | None = None  # drawn [E, C] -> bool [E] who ends by truncation; None: none

    @property
    def length(self) -> int:
        """Steps of an episode."""
        assert self.spec.horizon is not None
        return self.spec.horizon


def _spec(name: str, sizes: Sequence[tuple[str, int, Head]], length: int, routes: tuple[Route, ...] = ()) -> EnvSpec:
    agents = tuple(AgentSpec(agent, obs_size, (head,)) for agent, obs_size, head in sizes)
    return EnvSpec(f"envs.probes:{name}", agents, length, routes)


def _alike(name: str, agents: int, obs_size: int, choices: int, length: int = 1) -> EnvSpec:
    return _spec(name, [(f"agent_{n}", obs_size, Head("move", choices)) for n in range(agents)], length)


def constant_value_rules(agents: int = 1) -> Rules:
    """One step; agent n is rewarded n + 1 whatever happens. The value of agent 0 is 1."""
    values = tuple(float(n + 1) for n in range(agents))
    return Rules(
        spec=_alike("constant_value", agents, 1, 2),
        optimum=values,
        chance=values,
        highs=(1,),
        observe=lambda drawn, played: [torch.zeros(len(drawn), 1, device=drawn.device)] * agents,
        reward=lambda drawn, played: torch.tensor(values, device=drawn.device)[:, None].expand(-1, len(drawn)),
        facts=lambda gamma: [([[0.0]] * agents, None, list(values))],
    )


def value_from_observation_rules(agents: int = 1) -> Rules:
    """One step; each agent sees -1 or 1 and is rewarded that number. Value = observation."""
    return Rules(
        spec=_alike("value_from_observation", agents, 1, 2),
        optimum=(0.0,) * agents,
        chance=(0.0,) * agents,
        highs=(2,) * agents,
        observe=lambda drawn, played: list((2.0 * drawn.T - 1.0)[:, :, None]),
        reward=lambda drawn, played: 2.0 * drawn.T - 1.0,
        facts=lambda gamma: [([[sign]] * agents, None, [sign] * agents) for sign in (-1.0, 1.0)],
    )


def discounted_value_rules() -> Rules:
    """Two steps, seen as 0 and 1; the reward 1 comes with the second, which terminates. Values gamma and 1.

    The last observation is 1 again: a learner that bootstraps through the termination finds 1 / (1 - gamma).
    """
    return Rules(
        spec=_alike("discounted_value", 1, 1, 2, length=2),
        optimum=(1.0,),
        chance=(1.0,),
        highs=(1,),
        observe=lambda drawn, played: [torch.full((len(drawn), 1), float(len(played) > 0), device=drawn.device)],
        reward=lambda drawn, played: torch.full((1, len(drawn)), float(len(played) == 2), device=drawn.device),
        facts=lambda gamma: [([[0.0]], None, [gamma]), ([[1.0]], None, [1.0])],
    )


def truncated_value_rules() -> Rules:
    """One step, from one of three places. A: reward 0, moves to B and is *truncated* there. B: reward 1, terminates.
    C: reward -0.5, terminates. Values gamma, 1 and -0.5.

    A learner that takes the time limit for an end finds 0 at A; one that bootstraps from the observation after the
    reset finds gamma / (6 - 2 * gamma), .23 for gamma = .95; one that bootstraps through B's termination finds
    1 / (1 - gamma) at B.
    """

    def observe(drawn: Tensor, played: History) -> list[Tensor]:
        place = drawn[:, 0] if not played else torch.where(drawn[:, 0] == 0, 1, drawn[:, 0])
        return [one_hot(place, 3).float()]

    return Rules(
        spec=_alike("truncated_value", 1, 3, 2),
        optimum=(1 / 6,),
        chance=(1 / 6,),
        highs=(3,),
        observe=observe,
        reward=lambda drawn, played: torch.tensor([0.0, 1.0, -0.5], device=drawn.device)[drawn.T],
        facts=lambda gamma: [
            ([[1.0, 0.0, 0.0]], None, [gamma]),
            ([[0.0, 1.0, 0.0]], None, [1.0]),
            ([[0.0, 0.0, 1.0]], None, [-0.5]),
        ],
        truncated=lambda drawn: drawn[:, 0] == 0,
    )


def choose_action_rules(agents: int = 1) -> Rules:
    """One step; choice 1 of three is worth 1, the others 0."""
    return Rules(
        spec=_alike("choose_action", agents, 1, 3),
        optimum=(1.0,) * agents,
        chance=(1 / 3,) * agents,
        highs=(1,),
        observe=lambda drawn, played: [torch.ones(len(drawn), 1, device=drawn.device)] * agents,
        reward=lambda drawn, played: (played[0][:, :, 0] == 1).float(),
        facts=lambda gamma: [([[1.0]] * agents, [[a]] * agents, [float(a == 1)] * agents) for a in range(3)],
    )


def answer_observation_rules(agents: int = 1) -> Rules:
    """One step; each agent sees one of three signs of its own, and agent n's right choice is (sign + 1 + n) mod 3.

    Agents that share what they must not share, or that are mixed up, stay at 1/3.
    """

    def reward(drawn: Tensor, played: History) -> Tensor:
        shift = torch.arange(1, agents + 1, device=drawn.device)[:, None]
        return (played[0][:, :, 0] == (drawn.T + shift) % 3).float()

    def facts(gamma: float) -> list[Fact]:
        sign = [[float(k == 0) for k in range(3)]] * agents
        return [(sign, [[a]] * agents, [float(a == (1 + n) % 3) for n in range(agents)]) for a in range(3)]

    return Rules(
        spec=_alike("answer_observation", agents, 3, 3),
        optimum=(1.0,) * agents,
        chance=(1 / 3,) * agents,
        highs=(3,) * agents,
        observe=lambda drawn, played: [one_hot(column, 3).float() for column in drawn.T],
        reward=reward,
        facts=facts,
    )


def track_observation_rules(agents: int = 2) -> Rules:
    """One step; agent n sees x in {-.8, 0, .8} and is paid -(u - x (-1)^n)^2 for its number u: the first must say what
    it sees, the second the opposite, and so on.

    u = 0 always is worth -.43, which is where an actor stays that does not read its observation.
    """

    def wanted(drawn: Tensor) -> Tensor:
        sign = torch.tensor([(-1.0) ** n for n in range(agents)], device=drawn.device)
        return (drawn.T - 1.0) * 0.8 * sign[:, None]

    head = Head("move", 1, (-1.0,), (1.0,))
    listed = tuple(AgentSpec(f"agent_{n}", 1, (head,), box=True) for n in range(agents))
    return Rules(
        spec=EnvSpec("envs.probes:track_observation", listed, 1),
        optimum=(0.0,) * agents,
        chance=(-1 / 3 - 2 / 3 * 0.64,) * agents,
        highs=(3,) * agents,
        observe=lambda drawn, played: list(((drawn.T - 1.0) * 0.8)[:, :, None]),
        reward=lambda drawn, played: -((played[0][:, :, 0] - wanted(drawn)) ** 2),
        facts=lambda gamma: [
            ([[0.8]] * agents, [[u]] * agents, [-((u - 0.8 * (-1) ** n) ** 2) for n in range(agents)])
            for u in (-0.5, 0.0, 0.5)
        ],
    )


def matching_game_rules(goals: int = 3, symbols: int = 3) -> Rules:
    """A speaker sees the goal and sends a symbol; the listener hears it one step later and must pick the goal.

    Two steps, both agents rewarded 1 for the right pick in the second. Optimum min(goals, symbols) / goals; exactly
    1 / goals when the messages are shuffled among episodes, whatever the policies, and under random play.
    """
    if goals < 2 or symbols < 2:
        raise UserError(f"matching_game needs at least 2 goals and 2 symbols, got {goals} and {symbols}.")

    def observe(drawn: Tensor, played: History) -> list[Tensor]:
        heard = torch.zeros(len(drawn), symbols, device=drawn.device)
        if played:
            heard = one_hot(played[-1][0, :, 0], symbols).float()
        return [one_hot(drawn[:, 0], goals).float(), heard]

    def reward(drawn: Tensor, played: History) -> Tensor:
        right = (played[-1][1, :, 0] == drawn[:, 0]).float() * float(len(played) == 2)
        return right.expand(2, -1)

    def facts(gamma: float) -> list[Fact]:
        goal = [float(k == 0) for k in range(goals)]
        heard = [float(k == 0) for k in range(symbols)]
        return [([goal, heard], [[0], [pick]], [float(pick == 0)] * 2) for pick in range(goals)]

    best = min(goals, symbols) / goals
    route = Route(sender=0, head=0, receiver=1, start=0, size=symbols, meaning=(0, goals))
    return Rules(
        spec=_spec(
            "matching_game",
            [("speaker_0", goals, Head("message", symbols)), ("listener_0", symbols, Head("move", goals))],
            2,
            (route,),
        ),
        optimum=(best, best),
        chance=(1 / goals, 1 / goals),
        highs=(goals,),
        observe=observe,
        reward=reward,
        facts=facts,
    )


def recall_rules(agents: int = 1, length: int = 4) -> Rules:
    """Each agent sees one of three signs in the first step and nothing later; in the last step it must choose the sign.

    A policy that remembers nothing sees the same whatever the sign was: exactly 1/3. So does a critic, for which every
    choice of the last step is worth the same: both need memory. Nothing is worth a fact, as no observation tells it.
    """
    if length < 2:
        raise UserError(f"recall needs at least 2 steps, got {length}.")

    def observe(drawn: Tensor, played: History) -> list[Tensor]:
        return [one_hot(column, 3).float() * float(not played) for column in drawn.T]

    return Rules(
        spec=_alike("recall", agents, 3, 3, length),
        optimum=(1.0,) * agents,
        chance=(1 / 3,) * agents,
        highs=(3,) * agents,
        observe=observe,
        reward=lambda drawn, played: (played[-1][:, :, 0] == drawn.T).float() * float(len(played) == length),
        facts=lambda gamma: [],
    )


def witness_game_rules(bait: float = 0.25) -> Rules:
    """Two agents, two steps. The actor always sees the same; its choice 0 in the first step pays `bait` at once, its
    choice 1 pays 1 in the second step if the witness, who then sees what the actor chose, answers 1.

    Both agents get the reward. Optimum 1 (the actor chooses 1). With one-step targets a critic that sees the actor's
    observation alone cannot do it: both steps look alike, so the bootstrapped value is the same after either choice,
    and only the bait tells the choices apart; by half the bait, whatever the policies. It ends at `bait`. The central
    critic knows the second step by the witness's observation. (Returns of two or more steps help the independent
    critic out: use n_step = 1.)
    """

    def observe(drawn: Tensor, played: History) -> list[Tensor]:
        same = torch.ones(len(drawn), 1, device=drawn.device)
        seen = one_hot(played[0][0, :, 0], 2).float() if played else torch.zeros(len(drawn), 2, device=drawn.device)
        return [same, seen]

    def reward(drawn: Tensor, played: History) -> Tensor:
        chose = played[0][0, :, 0]
        if len(played) == 1:
            return (bait * (chose == 0)).expand(2, -1)
        return ((chose == 1) & (played[1][1, :, 0] == 1)).float().expand(2, -1)

    def facts(gamma: float) -> list[Fact]:
        saw = ([0.0, 1.0], [1.0, 0.0])
        facts: list[Fact] = [([[1.0], saw[0]], [[1], [answer]], [float(answer)] * 2) for answer in range(2)]
        return [*facts, ([[1.0], saw[1]], [[0], [1]], [0.0, 0.0])]

    return Rules(
        spec=_spec("witness_game", [("actor_0", 1, Head("move", 2)), ("witness_0", 2, Head("move", 2))], 2),
        optimum=(1.0, 1.0),
        chance=(bait / 2 + 0.25,) * 2,
        highs=(1,),
        observe=observe,
        reward=reward,
        facts=facts,
    )
