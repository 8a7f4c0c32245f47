"""How a joint observation is laid out: padded per agent, or one row without padding and without message slots.

Shape suffixes: S replicas, N agents, B rows, O observation width, A action width, J entries of the joint observation
that the model predicts, F entries of the joint observation, U entries of the joint action.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.spec import EnvSpec
from marl.world_model.flags import Flags


class Layout:
    """Index tables between the padded tensors of the learner and the rows of the world model.

    A message slot whose route is exact is not predicted: it holds the one-hot that the sender chose one step before,
    so that it is copied from the action; and so is an agent's own last action, where it sees it (`spec.own_action`).

    Args:
        spec: agents, heads and routes.
        device: where the tables live.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
        self.spec, self.flags = spec, Flags(spec, device)
        n, o, a = spec.num_agents, spec.obs_size, spec.action_size
        heads = spec.head_mask.flatten(1)  # [N, A]
        full = [i * o + j for i, agent in enumerate(spec.agents) for j in range(agent.obs_size)]
        used = [i * a + j for i in range(n) for j in range(a) if heads[i, j]]
        copied = {
            route.receiver * o + route.start + k: route.sender * a + route.head * spec.head_size + k
            for route in spec.routes
            if route.exact
            for k in range(route.size)
        }
        copied |= _own_actions(spec)
        dynamic = [position for position in full if position not in copied]
        self.full_size, self.obs_size, self.action_size = len(full), len(dynamic), len(used)
        # an assembled observation picks from [predicted J, joint action U, zero]
        source = [len(dynamic) + len(used)] * (n * o)
        for column, position in enumerate(dynamic):
            source[position] = column
        for position, action in copied.items():
            source[position] = len(dynamic) + used.index(action)

        def table(entries: list[int]) -> Tensor:
            return torch.tensor(entries, dtype=torch.int64, device=device)

        self._full_F, self._used_U, self._source = table(full), table(used), table(source)
        place = {position: k for k, position in enumerate(full)}
        self.dynamic_J = table([place[position] for position in dynamic])
        heard = {r.receiver * o + r.start + k for r in spec.routes for k in range(r.size)}
        # entries that errors are measured in: nobody knows what a channel with noise lets be heard
        self.judged_J = table([j for j, position in enumerate(dynamic) if position not in heard])
        self.widths = (self.full_size, self.action_size, n, self.flags.size)  # of what is stored of a frame
        self._padded = table([place.get(position, len(full)) for position in range(n * o)])

    def join(self, obs_SNBO: Tensor) -> Tensor:
        """Padded observations [S, N, B, O] to rows [S, B, F]."""
        return obs_SNBO.transpose(1, 2).flatten(2).index_select(2, self._full_F)

    def split(self, full_SBF: Tensor) -> Tensor:
        """Rows [S, B, F] to padded observations [S, N, B, O]; the inverse of `join`."""
        with_zero = torch.cat([full_SBF, full_SBF.new_zeros(*full_SBF.shape[:2], 1)], dim=2)
        return with_zero.index_select(2, self._padded).unflatten(2, (self.spec.num_agents, -1)).transpose(1, 2)

    def join_action(self, action_SNBA: Tensor) -> Tensor:
        """Padded one-hots [S, N, B, A] to rows [S, B, U]."""
        return action_SNBA.transpose(1, 2).flatten(2).index_select(2, self._used_U)

    def split_action(self, action_SBU: Tensor) -> Tensor:
        """Rows [S, B, U] to padded one-hots [S, N, B, A]; the inverse of `join_action`."""
        agents, width = self.spec.num_agents, self.spec.action_size
        padded = action_SBU.new_zeros(*action_SBU.shape[:2], agents * width)
        return padded.index_copy(2, self._used_U, action_SBU).unflatten(2, (agents, width)).transpose(1, 2)

    def assemble(self, obs_SBJ: Tensor, action_SBU: Tensor) -> Tensor:
        """The predicted entries and the messages just sent, as padded observations [S, N, B, O]; differentiable."""
        rows = torch.cat([obs_SBJ, action_SBU, obs_SBJ.new_zeros(*obs_SBJ.shape[:2], 1)], dim=2)
        return rows.index_select(2, self._source).unflatten(2, (self.spec.num_agents, -1)).transpose(1, 2)


def _own_actions(spec: EnvSpec) -> dict[int, int]:
    """{entry of the padded joint observation that tells an agent's own last action: entry of the padded action}."""
    if not spec.own_action:
        return {}
    assert spec.frames == 1, "of several observations only the newest would be predicted"
    found = {}
    for n, agent in enumerate(spec.agents):
        place = n * spec.obs_size + agent.obs_size - agent.choices
        for h, head in enumerate(agent.heads):
            for k in range(head.size):
                found[place] = n * spec.action_size + h * spec.head_size + k
                place += 1
    return found
