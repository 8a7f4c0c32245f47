"""The one reader of environments: what they declare and return, as rows of numbers, and choices as their own actions.

Training, `envs.check`, the evaluation and `Policy` all read through it, so that they accept the same environments and
refuse the same values in the same words. It is made of an environment, or of what a checkpoint stored of one.

Shape suffixes: N agents, O padded observation width, H heads, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from pettingzoo import ParallelEnv

from envs.batched import decode_actions
from envs.errors import UserError, did_you_mean
from envs.pettingzoo.flatten import ObservationReader, RowReader, mask_array, read_mask
from envs.pettingzoo.named import renamed
from envs.pettingzoo.plain_spaces import boxes, from_plain, to_plain
from envs.pettingzoo.values import COMMON, RESET, BadValue, raised, reset_result
from envs.spec import EnvSpec


class Reader:
    """Reads one environment's observations and masks, and writes its actions.

    Args:
        spec: the environment's description.
        readers: of every agent's observations.
        dtypes: of every agent's actions; used where they are arrays (MultiDiscrete, Box).
        turns: agents wait for each other: while one has a choice, the masks of others may allow nothing.
        spaces: the observation spaces as plain data; None: they are not known, observations are rows already.
    """

    def __init__(
        self,
        spec: EnvSpec,
        readers: Sequence[ObservationReader | RowReader],
        dtypes: Sequence[Any],
        turns: bool = False,
        spaces: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.spec, self.turns, self._spaces = spec, turns, spaces
        self.readers, self.dtypes = list(readers), [np.dtype(dtype) for dtype in dtypes]
        self.sizes = [tuple(head.size for head in agent.heads) for agent in spec.agents]
        self.boxes = any(agent.box for agent in spec.agents)
        self.index = {name: n for n, name in enumerate(spec.agent_names)}
        self.ids: dict[str, int] = {}  # {name: the environment's own id} where ids are no strings
        self.strides_NH = _strides(spec)

    @classmethod
    def of(cls, spec: EnvSpec, env: ParallelEnv, turns: bool = False) -> Reader:
        """The reader of an environment that `spec` describes."""
        observed = [env.observation_space(name) for name in spec.agent_names]
        readers = [
            ObservationReader(space, agent.name, picture=agent.picture)
            for space, agent in zip(observed, spec.agents, strict=True)
        ]
        dtypes = [env.action_space(name).dtype or np.int64 for name in spec.agent_names]
        made = cls(spec, readers, dtypes, turns, [to_plain(space) for space in observed])
        made.ids = {name: int(one) for name, one in getattr(env, "agent_ids", {}).items()}
        return made

    @classmethod
    def of_rows(cls, spec: EnvSpec) -> Reader:
        """The reader of an environment whose observations are rows already, as those of MPE are."""
        return cls(spec, [RowReader(agent.obs_size) for agent in spec.agents], _dtypes(spec))

    def pictures(self) -> dict[str, tuple[int, int, int]]:
        """{agent: (height, width, channels)} of its largest part that is a Box of three axes, where it has one."""
        found = {}
        for name, space in zip(self.spec.agent_names, self._spaces or (), strict=bool(self._spaces)):
            shapes = [shape for shape in boxes(space) if len(shape) == 3]
            if shapes:
                height, width, channels = max(shapes, key=math.prod)
                found[name] = (height, width, channels)
        return found

    def to_dict(self) -> dict[str, Any] | None:
        """Plain data from which `from_dict` makes the reader anew; None where observations are rows already."""
        if self._spaces is None:
            return None
        named = dict(zip(self.spec.agent_names, self._spaces, strict=True))
        actions = {name: str(dtype) for name, dtype in zip(self.spec.agent_names, self.dtypes, strict=True)}
        return {"observations": named, "actions": actions, "turns": self.turns, "ids": self.ids}

    @classmethod
    def from_dict(cls, spec: EnvSpec, plain: Mapping[str, Any] | None) -> Reader:
        """The reader that a checkpoint stored for a policy; it also takes lists and numbers of other types, which a
        user's own loop may hold, and rows that are flat already.

        Raises:
            UserError: `plain` is not what `to_dict` gave for `spec`.
        """
        if plain is None:
            return cls.of_rows(spec)
        try:
            given = [plain["observations"][name] for name in spec.agent_names]
            dtypes = [plain["actions"][name] for name in spec.agent_names]
            readers = [
                ObservationReader(from_plain(space), agent.name, lenient=True, picture=agent.picture)
                for space, agent in zip(given, spec.agents, strict=True)
            ]
            made = cls(spec, readers, dtypes, bool(plain["turns"]), given)
            made.ids = dict(plain.get("ids", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the stored description of the spaces of {spec.id!r} cannot be read: {error}.") from error
        widths = [reader.size for reader in readers]
        if widths != [agent.obs_size for agent in spec.agents]:
            raise UserError(f"the stored spaces of {spec.id!r} have the widths {widths}, which are not its agents'.")
        return made

    def inside(self, values: Any) -> Any:
        """A dictionary over the environment's own ids, by name."""
        return renamed(values, {one: name for name, one in self.ids.items()})

    def outside(self, values: dict[str, Any]) -> dict[Any, Any]:
        """A dictionary by name, over the environment's own ids."""
        result: dict[Any, Any] = renamed(values, self.ids)
        return result

    # ------------------------------------------------------------ one agent
    def write(self, n: int, observation: Any, infos: Any, row: np.ndarray) -> Any:
        """Flatten agent n's observation into `row` [its width]; its action mask as given there or in `infos`, masks of
        several heads in one array, or None.

        Raises:
            BadValue: the observation does not belong to its space, an info is no dict, or masks of heads do not fit.
        """
        try:
            mask = self.readers[n].write(observation, row)
        except BadValue as fault:
            raise BadValue(fault.text, self.spec.agents[n].name, "observation") from None
        mask = self.info_mask(n, infos) if mask is None and infos else mask
        if isinstance(mask, tuple | list):
            return self._of_mask(n, mask_array, mask)
        return mask

    def info_mask(self, n: int, infos: Any) -> Any:
        """Agent n's action mask in `infos`, or None.

        Raises:
            BadValue: infos, or that of the agent, are no dict.
        """
        if type(infos) is not dict and not isinstance(infos, Mapping):
            raise BadValue(
                f"expected a dict over agents as the environment gives it, got {_kind(infos)}", field="infos"
            )
        name = self.spec.agents[n].name
        info = infos.get(name)
        if info is None:
            return None
        if type(info) is not dict and not isinstance(info, Mapping):
            told = f"expected a dict with the mask, if any, under 'action_mask', got {_kind(info)}"
            raise BadValue(told, name, "info")
        return info.get("action_mask")

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Float32 (low, high), each [N, O], of all observation spaces; None where no value is outside of them."""
        low = np.full((self.spec.num_agents, self.spec.obs_size), -np.inf, np.float32)
        high = -low
        for n, reader in enumerate(self.readers):
            if reader.size == self.spec.agents[n].obs_size:  # else a space has changed, which the first reset refuses
                low[n, : reader.size], high[n, : reader.size] = reader.bounds
        return None if np.isinf(low).all() and np.isinf(high).all() else (low, high)

    def write_mask(self, n: int, mask: Any, rows_HK: np.ndarray) -> bool:
        """Write agent n's action mask as one row of allowed choices a head (`read_mask`); whether it allows anything.

        A mask over the joint choices of several heads is read jointly. Heads choose independently of each other, so
        only one that is a product of masks of the heads can be obeyed; any other is refused.

        Raises:
            BadValue: the mask is not one of this agent's.
        """
        if any(head.continuous for head in self.spec.agents[n].heads):
            told = "is given to an agent with continuous actions, expected none: bound its numbers by the space instead"
            raise BadValue(told, self.spec.agents[n].name, "action_mask")
        return bool(self._of_mask(n, read_mask, mask, rows_HK))

    def _of_mask(self, n: int, read: Callable[..., Any], mask: Any, *more: Any) -> Any:
        """What `read` makes of agent n's action mask; whom and what it refuses is named."""
        agent = self.spec.agents[n]
        try:
            return read(mask, self.sizes[n], agent.multi_discrete, *more)
        except BadValue as fault:
            raise BadValue(fault.text, agent.name, "action_mask") from None

    def may_wait(self, n: int, infos: Any, others_choose: bool) -> bool:
        """Whether agent n may have nothing to choose from now: it is not its turn.

        Args:
            n: the agent.
            infos: of this step; in an `active_agent` there, `turn_based_aec_to_parallel` names whose turn it is.
            others_choose: some other agent has a choice.
        """
        info = infos.get(self.spec.agents[n].name) if isinstance(infos, dict) else None
        active = info.get("active_agent") if isinstance(info, dict) else None
        return self.turns and others_choose if active is None else active != self.spec.agents[n].name

    def action(self, n: int, choices_H: Sequence[int]) -> Any:
        """The environment's own action: an integer (Discrete) or an array of the space's type (MultiDiscrete)."""
        if self.spec.agents[n].multi_discrete:
            return np.array(choices_H[: len(self.sizes[n])], self.dtypes[n])
        total, stride = self.spec.agents[n].start, 1
        for size, choice in zip(self.sizes[n], choices_H, strict=False):
            total += stride * choice
            stride *= size
        return total

    def actions(self, played: np.ndarray) -> list[list[Any]]:
        """Of what `BatchedEnv.step` takes [N, E, ...] every agent's own actions in the E environments."""
        agents = self.spec.agents
        if self.boxes:
            decoded = decode_actions(self.spec, torch.from_numpy(played))
            own = [decoded[agent.name].numpy() for agent in agents]
            return [
                list(own[n].astype(self.dtypes[n])) if own[n].ndim > 1 else own[n].tolist() for n in range(len(agents))
            ]
        ids = (played * self.strides_NH[:, None, :]).sum(-1)
        return [
            list(played[n, :, : len(sizes)].astype(self.dtypes[n]))
            if agents[n].multi_discrete
            else (ids[n] + agents[n].start).tolist()
            for n, sizes in enumerate(self.sizes)
        ]

    # ------------------------------------------------------------ all agents
    def rows(self, observations: Any, infos: Any = None) -> tuple[np.ndarray, np.ndarray | None, list[int]]:
        """What one environment returned, as rows.

        Args:
            observations: {agent: observation} as the environment gave it; agents that are not there may be left out.
            infos: {agent: {"action_mask": ...}} as the environment gave it, or None.

        Returns:
            Float32 [N, O], zeros for absent agents; bool [N, H, K] allowed choices, None where nothing is forbidden;
            the agents that are there.

        Raises:
            UserError: names the agent and what is wrong with its observation or mask.
        """
        if type(observations) is not dict:
            self._refuse_shape(observations)
        rows_NO = np.zeros((self.spec.num_agents, self.spec.obs_size), np.float32)
        masks: dict[str, Any] = {}
        there: dict[str, int] = {}
        for name, observation in observations.items():
            n = self.index.get(name)
            if n is None:
                if name not in COMMON:
                    self._refuse_unknown("observations", name)
                continue
            there[name] = n
            try:
                mask = self.write(n, observation, infos, rows_NO[n, : self.readers[n].size])
            except BadValue as fault:
                raise UserError(f"{fault}.") from None
            if mask is not None:
                masks[name] = mask
        if not there:
            raise UserError("got no observations; expected a dict with those of at least one agent.")
        if not np.isfinite(rows_NO).all():
            n, k = np.argwhere(~np.isfinite(rows_NO))[0]
            name, value = self.spec.agent_names[n], rows_NO[n, k]
            raise UserError(f"observation of agent {name!r}: entry {k} is {value}, expected finite numbers.")
        allowed_NHK = self.masks(masks, infos, list(there)) if masks else None
        return rows_NO, allowed_NHK, sorted(there.values())

    def masks(self, given: Mapping[str, Any], infos: Any = None, there: Sequence[str] | None = None) -> np.ndarray:
        """Action masks of one environment, {agent: mask}, as allowed choices.

        Args:
            given: the masks as the environment gave them.
            infos: as for `may_wait`.
            there: the agents that act; None: those with a mask.

        Returns:
            Bool [N, H, K]; agents without a mask may choose anything.

        Raises:
            UserError: a mask that is not one of its agent's, or that allows nothing to an agent whose turn it is.
        """
        allowed_NHK = self.spec.head_mask.numpy().copy()
        nothing = []
        for name, mask in given.items():
            n = self.index.get(name)
            if n is None:
                self._refuse_unknown("action masks", name)
            try:
                if not self.write_mask(n, mask, allowed_NHK[n]):
                    nothing.append(n)
            except BadValue as fault:
                raise UserError(f"{fault}.") from None
        others_choose = len(nothing) < len(given if there is None else there)
        for n in nothing:
            if not self.may_wait(n, infos, others_choose):
                raise UserError(f"{nothing_allowed(self.spec.agent_names[n])}.")
        return allowed_NHK

    def _refuse_shape(self, observations: Any) -> None:
        if isinstance(observations, Mapping):
            return
        hint = ""
        if isinstance(observations, tuple):
            hint = " reset returns (observations, infos): unpack them, or call policy(*env.reset())."
        raise UserError(f"observations must be a dict over agents, got {_kind(observations)}.{hint}")

    def _refuse_unknown(self, what: str, name: Any) -> NoReturn:
        names = self.spec.agent_names
        raise UserError(
            f"{what} of the unknown agent {name!r}; expected agents of {list(names)}.{did_you_mean(str(name), names)}"
        )


@dataclass(frozen=True)
class Masks:
    """What a reset tells of action masks."""

    any: bool  # observations or infos hold some
    turns: bool  # some agent may choose nothing while another has a choice


def find_masks(spec: EnvSpec, env: ParallelEnv) -> Masks:
    """Look for action masks in a reset.

    Raises:
        UserError: the reset raises or does not return a pair. Values that are not what they should be are left to
            those who read every step.
    """
    reader = Reader.of(spec, env)
    declared = any(one.has_mask for one in reader.readers)
    try:
        result = env.reset(seed=0)
    except Exception as error:
        raise UserError(f"environment {spec.id!r}: {raised('reset', error)}. {RESET}") from error
    try:
        observations, infos = reset_result(result)
    except BadValue as fault:
        raise UserError(f"environment {spec.id!r}: {fault}.") from None
    told = infos.values() if isinstance(infos, dict) else ()
    if not declared and not any(isinstance(info, dict) and "action_mask" in info for info in told):
        return Masks(any=False, turns=False)
    chooses = []
    for n, name in enumerate(spec.agent_names):
        try:
            mask = reader.write(n, observations[name], infos, np.zeros(spec.agents[n].obs_size))
            chooses.append(mask is None or bool(np.any(mask)))
        except (BadValue, KeyError, TypeError):
            continue
    return Masks(any=True, turns=any(chooses) and not all(chooses))


def nothing_allowed(name: str) -> BadValue:
    """The refusal of a mask of zeros."""
    return BadValue(
        "allows no action, expected at least one: allow one that does nothing while it is not the agent's turn",
        name,
        "action_mask",
    )


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"


def _dtypes(spec: EnvSpec) -> list[Any]:
    """Of every agent's actions in MPE."""
    return [np.float32 if agent.box else np.int64 for agent in spec.agents]


def _strides(spec: EnvSpec) -> np.ndarray:
    """int64 [N, H]: what a choice of each head adds to a Discrete action; the first head runs fastest."""
    strides = np.zeros((spec.num_agents, spec.num_heads), np.int64)
    for n, agent in enumerate(spec.agents):
        stride = 1
        for h, head in enumerate(agent.heads):
            strides[n, h] = stride
            stride *= head.size
    return strides
