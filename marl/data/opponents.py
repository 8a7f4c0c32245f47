"""Who plays against whom: in some environments one team is played by a frozen policy that is drawn from a pool.

The first J environments of every replica play against the pool. At each reset one of the task's teams is drawn
uniformly, and a member of the pool, a snapshot of earlier policies, that plays this team until the episode ends; all
other teams are played by the replica's present policies. Before the first snapshot nobody is frozen.

The agents of a frozen team do not learn from the episode. To the others the member is a part of the environment: what
it would do at the next observation is sampled and stored with the transition, and stands in the targets in place of
what the present policy of that team would do. So a critic learns the value against whoever of the pool played, on
average, and an actor the best response to the mixture; neither sees who it is.

Snapshots lie in a ring of `slots`, of which all but the oldest are drawn: the one that is overwritten next is left to
the episodes that it still plays. So an episode must not outlast the time between two snapshots.

Shape suffixes: S replicas, N agents, T teams, E environments of a replica, J environments that play against the pool,
K slots in the ring of one replica, or choices behind H, R rings that a replica draws from, M = R * K members in them,
O observation, A action, H heads.

Source: fictitious self-play, Heinrich, Lanctot and Silver 2015, for `uniform`: best responses to the average of earlier
policies. Differs from source: the average is over snapshots and not over all behaviour, of a bounded number, and a
snapshot is itself no exact best response. The prioritised draw: marl/data/standings.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.data.standings import Standings, hardness

Seats = Any
"""The parameters of the members that play, as `FrozenPolicies` have them."""


class FrozenPolicies(Protocol):
    """The policies of all snapshots."""

    def put(self, slot: int) -> None:
        """The present policies of all replicas take a slot of their rings."""

    def seats(self, row_SJ: Tensor) -> Seats:
        """Those in the rows int64 [S, J] of all rings, replica s's slot k being row s * K + k."""

    def act(self, seats: Seats, obs_SNJO: Tensor, mask: Tensor | None) -> Tensor:
        """Sampled one-hots, and numbers, [S, N, J, H, K] at observations, each of its environment's member."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def opponent_widths(spec: EnvSpec) -> dict[str, int]:
    """{field: numbers} of a stored row beside those of `marl.data.replay.row_widths`, where opponents are frozen."""
    return {"learns": spec.num_agents, "next_action": spec.num_agents * spec.action_size}


class Opponents:
    """Which team of every environment is frozen, and who plays it.

    Written in place, so that it can be recorded in a CUDA graph.

    Args:
        frozen: the policies of the pool.
        stream: of the draws; its rows are the replicas.
        teams: the agents of every team.
        envs: J and E.
        slots: K, one more than are drawn from.
        how: a member is drawn: all alike, the newest, or by `hardness`.
        shared: a replica draws from the snapshots of all replicas of this process, M = S * K, else from its own, M = K.
    """

    def __init__(
        self,
        frozen: FrozenPolicies,
        stream: Stream,
        teams: Sequence[Sequence[int]],
        envs: tuple[int, int],
        slots: int,
        how: Literal["uniform", "latest", "prioritised"],
        shared: bool = False,
    ) -> None:
        replicas, device = len(stream.key_R), stream.key_R.device
        agents, (against, every) = sum(map(len, teams)), envs
        self.frozen, self.stream, self.how, self.slots, self.shared = frozen, stream, how, slots, shared
        plays_TN = torch.zeros(len(teams), agents, dtype=torch.bool)
        for t, team in enumerate(teams):
            plays_TN[t, list(team)] = True
        self._plays_TN = plays_TN.to(device)
        self._rings = replicas if shared else 1  # that a replica draws from
        self._first_S1 = torch.arange(replicas, device=device)[:, None] * (0 if shared else slots)
        self.taken: list[int] = []  # steps of all snapshots; the newest are in the ring
        self.open_M = torch.zeros(self._rings * slots, device=device)  # 1: is drawn
        self.standings = Standings(replicas, len(teams), self._rings * slots, device)
        self.team_SJ = torch.zeros(replicas, against, dtype=torch.int64, device=device)
        self.member_SJ = torch.zeros(replicas, against, dtype=torch.int64, device=device)
        self.frozen_SNJ = torch.zeros(replicas, agents, against, dtype=torch.bool, device=device)
        self.learns_SNE = torch.ones(replicas, agents, every, dtype=torch.bool, device=device)
        # since the last record: returns of present agents against the pool, games, and games against every member
        self.total_SN = torch.zeros(replicas, agents, device=device)
        self.count_SN = torch.zeros(replicas, agents, device=device)
        self.games_S = torch.zeros(replicas, device=device)
        self.met_SM = torch.zeros(replicas, self._rings * slots, device=device)

    @property
    def against(self) -> int:
        """J."""
        return self.team_SJ.shape[1]

    @property
    def faced_SE(self) -> Tensor:
        """Whether one of the teams is frozen, bool [S, E]."""
        return ~self.learns_SNE.all(1)

    # ------------------------------------------------------------------ playing
    def seats(self) -> Seats:
        """The members that play now, for `act` and `ahead` of one step."""
        return self.frozen.seats(self.member_SJ + self._first_S1)

    def act(self, seats: Seats, action: Tensor, obs_SNEO: Tensor, mask: Tensor | None) -> Tensor:
        """`action` [S, N, E, H, K] of the present policies, which is written to, with the members' at their agents."""
        mine = action[:, :, : self.against]
        mine.copy_(torch.where(self.frozen_SNJ[..., None, None], self._theirs(seats, obs_SNEO, mask), mine))
        return action

    def ahead(self, seats: Seats, next_obs_SNEO: Tensor, next_mask: Tensor | None) -> Tensor:
        """What the members would do at the next observation, drawn anew, [S, N, E, A]; 0 for all other agents."""
        theirs_SNJA = (self._theirs(seats, next_obs_SNEO, next_mask) * self.frozen_SNJ[..., None, None]).flatten(-2)
        others = next_obs_SNEO.shape[2] - self.against
        return torch.nn.functional.pad(theirs_SNJA, (0, 0, 0, others))

    def _theirs(self, seats: Seats, obs_SNEO: Tensor, mask: Tensor | None) -> Tensor:
        part = slice(self.against)
        return self.frozen.act(seats, obs_SNEO[:, :, part], None if mask is None else mask[:, :, part])

    def turn(self, return_SNE: Tensor, ended_SE: Tensor) -> None:
        """Count the games that end, returns [S, N, E] and bool [S, E], and draw who plays the next ones."""
        ended_SJ = ended_SE[:, : self.against]
        learns_SNJ, return_SNJ = ~self.frozen_SNJ, return_SNE[:, :, : self.against]
        game_SJ = ended_SJ & self.frozen_SNJ.any(1)
        present_SNJ = (learns_SNJ & game_SJ[:, None]).float()
        mean_SJ = (return_SNJ * present_SNJ).sum(1) / present_SNJ.sum(1).clamp(min=1.0)
        self.standings.add(self.team_SJ, self.member_SJ, mean_SJ, game_SJ)
        self.total_SN += (return_SNJ * present_SNJ).sum(2)
        self.count_SN += present_SNJ.sum(2)
        self.games_S += game_SJ.sum(1)
        self.met_SM.scatter_add_(1, self.member_SJ, game_SJ.float())
        self.draw(ended_SE)

    def weights(self) -> Tensor:
        """In proportion to which members are drawn for every team, [S, T, M]; all 0 before the first snapshot."""
        if self.how == "prioritised":
            return hardness(self.standings.beaten()) * self.open_M
        return self.open_M.expand_as(self.standings.games_STM)

    def draw(self, ended_SE: Tensor) -> None:
        """A team and its player where an episode has ended, bool [S, E]; elsewhere they stay.

        A member is the argmax of the logarithm of its weight plus Gumbel noise.
        """
        against, (teams, members) = self.against, self.standings.games_STM.shape[1:]
        ended_SJ = ended_SE[:, :against]
        team_SJ = self.stream.integers(teams, against)
        noise_SJM = self.stream.gumbel(against, members)
        weight_SJM = self.weights().gather(1, team_SJ[..., None].expand_as(noise_SJM))
        member_SJ = (weight_SJM.log() + noise_SJM).argmax(-1)
        plays_SJN = self._plays_TN.index_select(0, team_SJ.flatten()).unflatten(0, team_SJ.shape)
        frozen_SNJ = plays_SJN.transpose(1, 2) & (weight_SJM > 0).any(-1)[:, None]
        self.team_SJ.copy_(torch.where(ended_SJ, team_SJ, self.team_SJ))
        self.member_SJ.copy_(torch.where(ended_SJ, member_SJ, self.member_SJ))
        self.frozen_SNJ.copy_(torch.where(ended_SJ[:, None], frozen_SNJ, self.frozen_SNJ))
        self.learns_SNE[:, :, :against] = ~self.frozen_SNJ

    # ------------------------------------------------------------------ the pool
    def snapshot(self, step: int) -> None:
        """The present policies become members of the pool, in place of its oldest ones where it is full."""
        slot = len(self.taken) % self.slots
        self.frozen.put(slot)
        self.standings.forget(slice(slot, None, self.slots))
        self.met_SM[:, slot :: self.slots] = 0.0
        self.taken.append(step)
        self._open()

    def _open(self) -> None:
        """Which members are drawn."""
        newest = 1 if self.how == "latest" else self.slots - 1
        drawn = [n % self.slots for n in range(max(len(self.taken) - newest, 0), len(self.taken))]
        self.open_M.zero_()
        for slot in drawn:
            self.open_M[slot :: self.slots] = 1.0

    # ------------------------------------------------------------------ the record
    def metrics(self) -> dict[str, Tensor]:
        """Of the games since they were last asked for; counted anew from now on.

        `opponents/return` [S, N] is what present agents earned against the pool, `opponents/episodes` [S] in how many
        games, `opponents/met/step_X` [S] the share of them against snapshots of step X, `opponents/others` [S] that
        against other replicas' snapshots; snapshots that have left the pool since are no longer told apart. Where they
        decide who is drawn, `opponents/beaten/step_X` [S] is how often these snapshots are beaten now, as `Standings`
        has it.
        """
        met_SRK = self.met_SM.unflatten(1, (-1, self.slots)) / self.games_S[:, None, None]
        beaten_SK = self.standings.beaten().unflatten(2, (-1, self.slots)).mean((1, 2))
        values = {"opponents/return": self.total_SN / self.count_SN, "opponents/episodes": self.games_S}
        for n in range(max(len(self.taken) - self.slots, 0), len(self.taken)):
            values[f"opponents/met/step_{self.taken[n]}"] = met_SRK[:, :, n % self.slots].sum(1)
            if self.how == "prioritised":
                values[f"opponents/beaten/step_{self.taken[n]}"] = beaten_SK[:, n % self.slots]
        if self.shared:
            values["opponents/others"] = 1.0 - met_SRK.sum(2).diagonal() / met_SRK.sum((1, 2))
        values = {name: x.clone() for name, x in values.items()}
        for counted in (self.total_SN, self.count_SN, self.games_S, self.met_SM):
            counted.zero_()
        return values

    # ------------------------------------------------------------------ state
    def _counted(self) -> dict[str, Tensor]:
        names = ("team_SJ", "member_SJ", "frozen_SNJ", "learns_SNE", "total_SN", "count_SN", "games_S", "met_SM")
        return {name.rpartition("_")[0]: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """The pool, who plays, and what is counted; tensors lead with the replicas."""
        return {
            **{name: x.clone() for name, x in self._counted().items()},
            "taken": list(self.taken),
            "standings": {name: x.clone() for name, x in self.standings.state_dict().items()},
            "stream": self.stream.state_dict(),
            "policies": self.frozen.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = {"games": state["met"].sum(1), **state}  # not counted in checkpoints until November 2026
        for name, x in self._counted().items():
            x.copy_(known[name])
        self.taken = list(state["taken"])
        self.standings.load_state_dict(state["standings"])
        self.stream.load_state_dict(state["stream"])
        self.frozen.load_state_dict(state["policies"])
        self._open()
