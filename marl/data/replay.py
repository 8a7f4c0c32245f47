"""The replay buffer: transitions of every replica in one preallocated tensor on the training device.

Shape suffixes: S replicas, N agents, E environments, B batch, O observation, A action, H heads, K choices,
C capacity, D width of a stored row, X = S * C.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.data.batch import Batch, Transitions


def row_widths(spec: EnvSpec) -> dict[str, int]:
    """{field: numbers} of one stored transition, in their order."""
    n, o, a = spec.num_agents, spec.obs_size, spec.action_size
    widths = {"joint": n * (o + a), "prev_obs": len(spec.senders) * o, "first": 1, "reward": n, "discount": n}
    widths["next_obs"] = n * o
    if not spec.fixed_agents:
        widths |= {"active": n, "next_active": n}
    if spec.has_masks:
        widths |= {"mask": n * a, "next_mask": n * a}
    return widths


def population_widths(spec: EnvSpec) -> dict[str, int]:
    """{field: numbers} of a stored row beside those of `row_widths`, where partners are drawn from populations."""
    return {"member": spec.num_agents, "learns": spec.num_agents}


class Replay:
    """Uniform replay with n-step returns.

    Where the next rows go and how many there are is kept on the device, and every tensor that outlives a call is only
    ever written in place: adding and sampling can be recorded in a CUDA graph.

    Args:
        spec: sizes of the environment.
        capacity: transitions kept per replica.
        num_envs: E; rounded so that a joint step never wraps.
        stream: noise of the draws; its rows are the replicas.
        gamma: discount per step.
        n_step: rewards summed before the bootstrap; sums stop where an agent's episode ends, and those of all agents
            of an environment where one is truncated: all bootstrap from the same joint step.
        further: {field: numbers} that a row holds beside those of `row_widths`.
        team: [N, N] weights of the mean reward of a team, of which an agent's sums are then made (a learner's
            `stored_team_NN`); None: of its own rewards.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        num_envs: int,
        stream: Stream,
        gamma: float,
        n_step: int = 1,
        further: dict[str, int] | None = None,
        team: Tensor | None = None,
    ) -> None:
        self.spec, self.num_envs, self.stream, self.team_NN = spec, num_envs, stream, team
        self.gamma, self.n_step = gamma, n_step
        self.capacity = max(capacity // num_envs, 1) * num_envs
        widths = self._widths = {**row_widths(spec), **(further or {})}
        self._senders = torch.tensor(spec.senders, dtype=torch.int64, device=stream.key_R.device)
        replicas = len(stream.key_R)
        device = stream.key_R.device
        self.data_SCD = torch.empty(replicas, self.capacity, sum(widths.values()), device=device)
        self._offset_S1 = torch.arange(replicas, device=device)[:, None] * self.capacity
        self._slot_1 = torch.zeros(1, dtype=torch.int64, device=device)  # where the next joint step goes
        self._size = torch.zeros((), dtype=torch.int64, device=device)
        self._window: list[dict[str, Tensor]] = []  # the last n_step - 1 joint steps, oldest first

    @property
    def size(self) -> int:
        """Transitions that are stored of a replica; asking waits for the device."""
        return int(self._size)

    @property
    def cursor(self) -> int:
        """Position of the next transition; asking waits for the device."""
        return int(self._slot_1) * self.num_envs

    # ---------------------------------------------------------------- storing
    @property
    def ready(self) -> bool:
        """Whether the n-step window is full: a step then completes another."""
        return len(self._window) == self.n_step - 1

    def add(self, transitions: Transitions) -> None:
        """Store the transitions that are complete: those of n_step - 1 joint steps ago."""
        newest = self._fields(transitions)
        if not self.ready:
            self._window.append({name: x.clone() for name, x in newest.items()})
            return
        steps = [*self._window, newest]
        fields = self._n_step_fields(steps)
        self._write(self.data_SCD, torch.cat([fields[name] for name in self._widths], dim=2))
        self._write_further(fields)
        self._slot_1.add_(1).remainder_(self.capacity // self.num_envs)
        self._size.add_(self.num_envs).clamp_(max=self.capacity)
        for older, later in pairwise(steps):
            for name, x in older.items():
                x.copy_(later[name])

    def _write(self, store_SCD: Tensor, rows_SED: Tensor) -> None:
        """Rows of the next joint step into a store."""
        store_SCD.unflatten(1, (-1, self.num_envs)).index_copy_(1, self._slot_1, rows_SED[:, None])

    def _write_further(self, fields: dict[str, Tensor]) -> None:
        """What a row holds outside of `data_SCD`: nothing."""

    def _fields(self, t: Transitions) -> dict[str, Tensor]:
        """Every stored field as [S, E, width], with one step's reward and discount."""

        def rows(x_SNE: Tensor) -> Tensor:
            return x_SNE.transpose(1, 2).flatten(2)

        active = torch.ones_like(t.reward) if t.active is None else t.active.to(t.reward.dtype)
        reward = t.reward * active if self.team_NN is None else torch.matmul(self.team_NN, t.reward * active)
        fields = {
            "joint": torch.cat([rows(t.obs), rows(t.action)], dim=2),
            "prev_obs": rows(t.prev_obs.index_select(1, self._senders)),
            "first": t.first[..., None].to(t.obs.dtype),
            "reward": rows(reward[..., None]),
            "discount": rows((self.gamma * ~t.terminated * active)[..., None]),
            "next_obs": rows(t.next_obs),
            "ended": rows((t.terminated | t.truncated)[..., None]),
        }
        if not self.spec.fixed_agents:
            later = ~t.terminated if t.next_active is None else t.next_active
            fields |= {"active": rows(active[..., None]), "next_active": rows(later[..., None]).to(t.obs.dtype)}
        if t.member is not None:
            fields |= {"member": rows(t.member[..., None]).to(t.obs.dtype)}
        if t.learns is not None:
            fields |= {"learns": rows(t.learns[..., None]).to(t.obs.dtype)}
        if t.next_action is not None:
            fields |= {"next_action": rows(t.next_action)}
        if self.spec.has_masks and t.mask is not None and t.next_mask is not None:
            fields |= {"mask": rows(t.mask.flatten(3)).to(t.obs.dtype)}
            fields |= {"next_mask": rows(t.next_mask.flatten(3)).to(t.obs.dtype)}
        return fields

    def _n_step_fields(self, steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The oldest of n joint steps with rewards summed until the last of them, the episode's end or a truncation."""

        def going_on(step: dict[str, Tensor], going_SEN: Tensor) -> Tensor:
            ended_SEN = step["ended"].bool()
            truncated_SEN = going_SEN & ended_SEN & (step["discount"] > 0)
            return going_SEN & ~ended_SEN & ~truncated_SEN.any(2, keepdim=True)

        oldest = dict(steps[0])
        going_SEN = going_on(oldest, torch.ones_like(oldest["ended"], dtype=torch.bool))
        for later in steps[1:]:
            reward, discount = oldest["reward"], oldest["discount"]
            oldest["reward"] = torch.where(going_SEN, reward + discount * later["reward"], reward)
            oldest["discount"] = torch.where(going_SEN, discount * later["discount"], discount)
            # an environment is reset as a whole: the next observation stays at the end of its episode
            env_going_SE1 = going_SEN.any(2, keepdim=True)
            for name in oldest.keys() & {"next_obs", "next_active", "next_mask", "next_action", "next_pixels"}:
                oldest[name] = torch.where(env_going_SE1, later[name], oldest[name])
            going_SEN = going_on(later, going_SEN)
        return oldest

    def interrupt(self) -> None:
        """The running episodes do not go on with the next step: open sums stop here, as at a time limit."""
        if self._window:
            self._window[-1]["ended"].fill_(1.0)

    # --------------------------------------------------------------- sampling
    def sample(self, batch_size: int) -> Batch:
        """B transitions per replica, drawn uniformly with replacement."""
        index_SB = self.stream.integers(self._size, batch_size) + self._offset_S1
        return self.gather(index_SB)

    def ahead(self, batch_size: int, batches: int) -> Tensor:
        """Positions [U, S, B] of the next `batches` samples in the stores of their replicas, as `sample` draws them."""
        return self.stream.integers_ahead(batches, self._size, batch_size)

    @property
    def columns(self) -> dict[str, int]:
        """Where each field of a stored row begins."""
        return dict(zip(self._widths, accumulate(self._widths.values(), initial=0), strict=False))

    def at(self, index_SB: Tensor) -> Batch:
        """The transitions at positions of the replicas' stores."""
        return self.gather(index_SB + self._offset_S1)

    def gather(self, index_SB: Tensor) -> Batch:
        """The transitions at positions of the flattened [S * capacity] store."""
        return self._batch(self._parts(index_SB, self._widths))

    def _parts(self, index_SB: Tensor, widths: dict[str, int]) -> dict[str, Tensor]:
        """The first fields, those of `widths`, of rows of the flattened store, each [S, B, its numbers]."""
        data_XD = self.data_SCD.flatten(0, 1)[:, : sum(widths.values())]
        rows_SBD = data_XD.index_select(0, index_SB.flatten()).unflatten(0, index_SB.shape)
        return dict(zip(widths, rows_SBD.split(list(widths.values()), dim=2), strict=True))

    def _batch(self, parts: dict[str, Tensor]) -> Batch:
        """A batch of stored fields."""
        n, o, heads = self.spec.num_agents, self.spec.obs_size, (self.spec.num_heads, self.spec.head_size)

        def per_agent(x_SBX: Tensor, count: int = n) -> Tensor:
            return x_SBX.unflatten(2, (count, -1)).transpose(1, 2)

        def masks(name: str) -> Tensor | None:
            return per_agent(parts[name]).unflatten(3, heads).bool() if name in parts else None

        joint = parts["joint"]
        senders = len(self.spec.senders)
        prev = per_agent(parts["prev_obs"], senders) if senders else joint.new_zeros(len(joint), 0, joint.shape[1], o)
        return Batch(
            joint=joint,
            prev_obs=prev,
            first=parts["first"][..., 0] > 0.5,
            reward=parts["reward"].transpose(1, 2),
            discount=parts["discount"].transpose(1, 2),
            next_obs=per_agent(parts["next_obs"]),
            active=parts["active"].transpose(1, 2) if "active" in parts else None,
            next_active=parts["next_active"].transpose(1, 2) if "next_active" in parts else None,
            mask=masks("mask"),
            next_mask=masks("next_mask"),
            member=parts["member"].transpose(1, 2).long() if "member" in parts else None,
            learns=parts["learns"].transpose(1, 2) if "learns" in parts else None,
            next_action=per_agent(parts["next_action"]) if "next_action" in parts else None,
        )

    def metrics(self) -> dict[str, Tensor]:
        return {"replay/size": self._size.to(torch.float32)}

    def warnings(self) -> list[str]:
        """Nothing: there is nothing to be wrong."""
        return []

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Filled rows, cursor, open n-step window and the stream."""
        size = self.size
        return {
            "data": self.data_SCD if size == self.capacity else self.data_SCD[:, :size].clone(),
            "cursor": self.cursor,
            "size": size,
            "window": [{name: x.clone() for name, x in fields.items()} for fields in self._window],
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit; a buffer of another capacity takes over the newest rows that it holds."""
        device = self.data_SCD.device
        size = min(state["size"], self.capacity)
        cursor = (size if self._rolls(state) else state["cursor"]) % self.capacity
        self._slot_1.fill_(cursor // self.num_envs)
        self._size.fill_(size)
        self.data_SCD[:, :size] = self._newest(state, "data")
        self._window = [{name: x.to(device, copy=True) for name, x in fields.items()} for fields in state["window"]]
        self.stream.load_state_dict(state["stream"])

    def _rolls(self, state: dict[str, Any]) -> bool:
        """Whether a state is of a buffer that was full, at another capacity."""
        size: int = state["size"]
        return size > self.capacity or (size < self.capacity and state["cursor"] < size)

    def _newest(self, state: dict[str, Any], name: str) -> Tensor:
        """The newest rows of a stored tensor that this buffer holds, the oldest of them first where it `_rolls`."""
        rows_SCD: Tensor = state[name].to(self.data_SCD.device)
        return rows_SCD.roll(-state["cursor"], 1)[:, -self.capacity :] if self._rolls(state) else rows_SCD
