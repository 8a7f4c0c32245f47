"""How often present teams beat the members of a pool, and what that makes a member worth to be drawn.

The tasks have returns and no winners, and a return says little across teams whose rewards differ. So a team *beats* a
member where it earns more in the episode than it has earned of late against that side's pool as a whole, whoever of it
played; as much counts half.

Shape suffixes: S replicas, T teams, M members of a pool, J environments that play against it, X = T * M.

Source: Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Methods,
prioritised fictitious self-play: a member B is drawn with a probability in proportion to f(P[A beats B]), for the main
agents f_hard(x) = (1 - x)^p. Differs from source: what beating is (above); p is 2; an unknown member counts as one game
half won, which a beaten one keeps, so that nobody's probability falls to 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DECAY = 0.99  # of what a game counts, with every later one: about the last hundred are remembered
POWER = 2.0  # p


def beaten(won: Tensor, games: Tensor) -> Tensor:
    """Estimated probability that a present team beats a member, in (0, 1) where `won` is within 0 and `games`.

    One game half won is added to what was played.

    Args:
        won: games won, drawn ones half, of any shape.
        games: games played.
    """
    return (won + 0.5) / (games + 1.0)


def hardness(beaten_STM: Tensor) -> Tensor:
    """f_hard(x) = (1 - x)^2: the weight of a member that is beaten with probability x."""
    return (1.0 - beaten_STM) ** POWER


class Standings:
    """Results of the games against every member in every team's place; written in place.

    Args:
        replicas, teams, members: S, T, M.
        device: where they are kept.
    """

    def __init__(self, replicas: int, teams: int, members: int, device: torch.device) -> None:
        self.won_STM = torch.zeros(replicas, teams, members, device=device)
        self.games_STM = torch.zeros(replicas, teams, members, device=device)
        self.total_ST = torch.zeros(replicas, teams, device=device)  # of returns against the pool in a team's place
        self.count_ST = torch.zeros(replicas, teams, device=device)  # of the games in it

    def add(self, team_SJ: Tensor, member_SJ: Tensor, return_SJ: Tensor, ended_SJ: Tensor) -> None:
        """Games that end together; none of them counts for the mean that it is compared with.

        Args:
            team_SJ: int64, in whose place the member played.
            member_SJ: int64.
            return_SJ: mean return of the agents of all other teams, the present ones.
            ended_SJ: bool, the game has just ended.
        """
        count_SJ = self.count_ST.gather(1, team_SJ)
        mean_SJ = self.total_ST.gather(1, team_SJ) / count_SJ
        result_SJ = (return_SJ > mean_SJ).float() + 0.5 * (return_SJ == mean_SJ)
        result_SJ = torch.where(count_SJ > 0, result_SJ, 0.5) * ended_SJ
        place_SJ = team_SJ * self.games_STM.shape[2] + member_SJ
        won_STM, new_STM = self._sum(place_SJ, result_SJ), self._sum(place_SJ, ended_SJ.float())
        kept_STM = DECAY**new_STM
        self.won_STM.mul_(kept_STM).add_(won_STM)
        self.games_STM.mul_(kept_STM).add_(new_STM)
        teams = torch.arange(self.count_ST.shape[1], device=team_SJ.device)
        of_team_STJ = ((team_SJ[:, None] == teams[:, None]) & ended_SJ[:, None]).float()
        new_ST = of_team_STJ.sum(2)
        kept_ST = DECAY**new_ST
        self.total_ST.mul_(kept_ST).add_((of_team_STJ * return_SJ[:, None]).sum(2))
        self.count_ST.mul_(kept_ST).add_(new_ST)

    def _sum(self, place_SJ: Tensor, x_SJ: Tensor) -> Tensor:
        """[S, T, M]; halves add up exactly, in any order."""
        sums_SX = torch.zeros_like(self.games_STM).flatten(1)
        return sums_SX.scatter_add_(1, place_SJ, x_SJ).view_as(self.games_STM)

    def forget(self, members: slice) -> None:
        """Others stand in the places of these members now."""
        self.won_STM[..., members] = 0.0
        self.games_STM[..., members] = 0.0

    def beaten(self) -> Tensor:
        """Of every member in every team's place, [S, T, M]."""
        return beaten(self.won_STM, self.games_STM)

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {"won": self.won_STM, "games": self.games_STM, "total": self.total_ST, "count": self.count_ST}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, held in self.state_dict().items():
            held.copy_(state[name])
