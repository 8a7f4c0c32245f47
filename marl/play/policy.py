"""Decentralised execution: each agent's actor on its own observation, PettingZoo dicts in and out.

Shape suffixes: F frames, N agents, E environments, O padded width of one observation, H heads, K choices,
X = O + H * K, W width of a recurrent actor's state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from envs.batched import decode_actions
from envs.conditions import Condition
from envs.history import Frames
from envs.pettingzoo.reader import Reader
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.resolve import from_dict
from marl.config.schema import Config
from marl.errors import UserError, did_you_mean
from marl.learner import relaxation
from marl.learner.continuous import numbers_in_play
from marl.learner.pictures.networks import actor_of
from marl.learner.recurrent.networks import RecurrentActor
from marl.play.numpy_actor import NumpyActor, NumpyRecurrentActor, TorchActor
from marl.pretrained import library
from marl.runs import checkpoint as checkpoints

_FLOOR = np.float32(-1e30)  # the score of a forbidden choice; finite, as in marl/learner/relaxation.py


class Policy:
    """One replica's actors: a `Player` for evaluation and a function from dicts to dicts for one's own loop.

    A policy that `remembers` (trained with `maddpg.recurrent`, or with `maddpg.frames` above 1) takes every call for
    the next step of the same episodes: call `reset(num_envs)`, in one's own loop `reset(1)`, at the start of each.
    `act` plays `num_envs` episodes that start together; they cannot be reset one by one.

    Evaluations, films and analyses play it through its `condition`, the channel of its run (`--channel`). In one's own
    loop it is given what the environment says: a run with another channel than gumbel then hears what it never heard.

    Args:
        spec: the specification that the actors were trained with; `self.spec` is that of the environment itself.
        config: the run's configuration (widths of the networks).
        flat_GP: the replica's actor parameters [G, P].
        greedy: argmax of each head, else a sample.
        seed: of the samples.
        reader: reads what the environment returns; None: its observations are rows of numbers already.

    Raises:
        UserError: parameters of another shape.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: Config,
        flat_GP: Tensor,
        greedy: bool = True,
        seed: int = 0,
        reader: Reader | None = None,
    ) -> None:
        self.spec, self.config, self.greedy = spec.single(), config, greedy
        self.env_id, self.env_args = spec.id, dict(config.env_args)
        self.num_replicas = config.num_replicas
        self.channel = config.channel_name
        self.condition = Condition.of(config.channel, config.channel_noise)
        self._noise = Stream(seed, "policy", (0,))
        self._reader = Reader.of_rows(self.spec) if reader is None else reader
        self._frames = Frames(spec)
        self._last: tuple[Tensor, Tensor] | None = None  # what was seen and done; None: nothing yet, or no memory
        self._state_NEW: Tensor | None = None  # of recurrent actors; None: nothing yet, or they are none
        learner = config.maddpg
        self._actor = actor_of(spec, learner, Stream(0, "shape", (0,)))
        expected = tuple(self._actor.mlp.flat.shape[1:])
        if tuple(flat_GP.shape) != expected:
            raise UserError(f"the policy's parameters have shape {list(flat_GP.shape)}, expected {list(expected)}.")
        self._actor.mlp.flat = torch.nn.Parameter(flat_GP.detach().cpu().clone()[None], requires_grad=False)
        self._parameters = self._actor.prepared()  # they never change
        self._numpy_actor: NumpyActor | NumpyRecurrentActor | TorchActor
        if spec.picture:  # what numpy saves is nothing beside the convolutions
            self._numpy_actor = TorchActor(self._actor, self._parameters)
        elif learner.recurrent:
            self._numpy_actor = NumpyRecurrentActor(self._parameters, learner.layer_norm, self._actor.heads)
        else:
            self._numpy_actor = NumpyActor(self._parameters, learner.layer_norm, self._actor.heads)
        self._floor_NHK = np.where(self.spec.head_mask.numpy(), np.float32(0), _FLOOR)

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        replica: int = 0,
        greedy: bool = True,
        checkpoint: int | str | Path | None = None,
        seed: int = 0,
    ) -> Policy:
        """The policy of a run's newest checkpoint, or of another; needs the actors' file alone.

        Args:
            run_dir: of the run.
            replica: which of its replicas.
            greedy: argmax of each head, else a sample.
            checkpoint: a step, or a checkpoint's directory; None: the newest.
            seed: of the samples.

        Raises:
            UserError: no such run, checkpoint or replica, or a damaged file.
        """
        path = Path(run_dir)
        if not path.exists() and str(path) in library.names():
            raise UserError(
                f"there is no run directory {path}. To play the policy of that name that comes with the package, add "
                f"--pretrained (in Python: Policy.pretrained({str(path)!r}))."
            )
        if isinstance(checkpoint, int):
            path = checkpoints.of_step(path, checkpoint)
        elif checkpoint is not None:
            path = Path(checkpoint)
        loaded = checkpoints.load(checkpoints.locate(path), ["policy"])
        config = from_dict(loaded.manifest["config"], str(loaded.path))
        spec = EnvSpec.from_dict(loaded.manifest["spec"])
        flat_SGP = loaded.parts["policy"]["actor"]
        if not 0 <= replica < len(flat_SGP):
            raise UserError(f"replica must lie in [0, {len(flat_SGP) - 1}], got {replica}.")
        reader = Reader.from_dict(spec.single(), loaded.manifest.get("reader"))
        return cls(spec, config, flat_SGP[replica], greedy, seed, reader)

    @classmethod
    def pretrained(cls, name: str, replica: int = 0, greedy: bool = True, seed: int = 0) -> Policy:
        """A policy that comes with the package: one of the runs behind the tables of results.

        Args:
            name: of the task, as "simple_reference"; `marl.pretrained.library.names()` are those that there are.
            replica: which of them.
            greedy: argmax of each head, else a sample.
            seed: of the samples.

        Raises:
            UserError: no such policy or replica, or a damaged file.
        """
        stored = library.read(name)
        count = len(stored.flat_SGP)
        if not 0 <= replica < count:
            raise UserError(f"replica must lie in [0, {count - 1}], got {replica}.")
        config = from_dict({**stored.entry.settings, "num_replicas": count}, f"pretrained {stored.name}")
        spec = EnvSpec.from_dict(dict(stored.entry.spec))
        return cls(spec, config, torch.from_numpy(stored.flat_SGP[replica]), greedy, seed)

    # ---------------------------------------------------------------- playing
    @property
    def remembers(self) -> bool:
        """Whether actions depend on earlier steps, so that `reset` must be called at the start of episodes."""
        return self._frames.earlier

    def reset(self, num_envs: int) -> None:
        """Start of `num_envs` episodes: forget what was seen and done before them."""
        self._last = self._state_NEW = None

    def __call__(self, observations: dict[str, Any], infos: dict[str, Any] | None = None) -> dict[str, Any]:
        """What every agent does in one environment.

        A policy that `remembers` takes each call for the next step of one episode: call `reset(1)` before its first.

        Args:
            observations: as the environment gave them, {agent: observation}; agents that have left need no entry.
                Where a run stored no spaces (MPE, runs of older versions): float [own width].
            infos: as the environment gave them; read for action masks, where an observation does not hold its own.

        Returns:
            {agent: its own PettingZoo action} of the agents observed: int, or an array [heads] of a MultiDiscrete, or
            float [entries] of a Box.

        Raises:
            UserError: an agent that is not known, an observation that does not belong to its space or is not finite, a
                mask of the wrong length, a mask that allows nothing to an agent whose turn it is, or no observation.
        """
        rows_NO, allowed_NHK, there = self._reader.rows(self._reader.inside(observations), self._reader.inside(infos))
        if self.remembers:
            kept_FNEX = self._kept(torch.from_numpy(rows_NO)[:, None])
            rows_NO = self._frames.wide(kept_FNEX)[:, 0].numpy()
        state_NW = None if self._state_NEW is None else self._state_NEW[:, 0].numpy()
        outputs_NHK, state_NW = self._numpy_actor(rows_NO, state_NW)
        scores_NHK = outputs_NHK
        if not self.greedy:
            scores_NHK = scores_NHK + self._noise.gumbel(len(rows_NO), 1, *scores_NHK.shape[1:])[0, :, 0].numpy()
        scores_NHK = scores_NHK + self._floor_NHK if allowed_NHK is None else np.where(allowed_NHK, scores_NHK, _FLOOR)
        choices_NH = scores_NHK.argmax(-1)
        played_NE = torch.from_numpy(choices_NH)[:, None]
        if self.spec.continuous:
            played_NE = self._rows(one_hot(played_NE, self.spec.head_size), torch.from_numpy(outputs_NHK)[:, None])
        if self.remembers:
            self._last = kept_FNEX, played_NE
            self._state_NEW = None if state_NW is None else torch.from_numpy(state_NW)[:, None]
        choices, action, names = choices_NH.tolist(), self._reader.action, self.spec.agent_names
        if self._reader.boxes:
            own = self._reader.actions(played_NE.numpy())
            return self._reader.outside({names[n]: own[n][0] for n in there})
        return self._reader.outside({names[n]: action(n, choices[n]) for n in there})

    def act(self, observations: dict[str, Any], masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """What every agent does in E environments at once, from flattened observations (a `Player`).

        Args:
            observations: {agent: float [E, own width]}; those of agents that are not the policy's are ignored, so that
                it can play beside others (`Mixed`).
            masks: {agent: [E, n]}, action masks as the environment gives them (of a Discrete(n) over its joint
                choices), or {agent: bool [E, H, K]}, choices of every head as `EnvSpec.head_mask` pads them.

        Returns:
            {agent: PettingZoo ids int64 [E]} (MultiDiscrete [E, heads]; Box: float32 [E, entries]).

        Raises:
            UserError: only agents that are not known, an observation of another shape or with numbers that are not
                finite, or a mask that is not one of its agent's.
        """
        kept_FNEX, mask = self._seen(observations), self._allowed(masks)
        logits, state_NEW = self._thought(kept_FNEX)
        if self.greedy:
            onehot = relaxation.greedy_onehot(logits, mask)
        else:
            onehot = relaxation.sample_onehot(logits, self._noise.gumbel(*logits.shape)[0], mask)
        played_NE = self._rows(onehot, logits) if self.spec.continuous else onehot.argmax(-1)
        if self.remembers:
            self._last, self._state_NEW = (kept_FNEX, played_NE), state_NEW
        ids = decode_actions(self.spec, played_NE)
        return {name: x.numpy() for name, x in ids.items() if name in observations}

    def probabilities(self, observations: dict[str, Any], masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """{agent: float64 [E, H, K]} of each head's choices, from what `act` takes; nothing is remembered. Zeros of
        continuous heads."""
        p = relaxation.probabilities(self._thought(self._seen(observations))[0].double(), self._allowed(masks))
        return {name: p[n].numpy() for n, name in enumerate(self.spec.agent_names) if name in observations}

    def _rows(self, onehot_NEHK: Tensor, outputs_NEHK: Tensor) -> Tensor:
        """Float32 [N, E, A]: one-hots of choices, and the numbers of continuous heads, which a Gaussian policy samples
        with the deviation that its training ended with."""
        settings, noise = self.config.maddpg, None
        if settings.continuous == "gaussian" and not self.greedy:
            noise = settings.exploration_final * self._noise.normal(*outputs_NEHK.shape)[0]
        choices_NEHK = onehot_NEHK * self.spec.head_mask[:, None]
        return (choices_NEHK + numbers_in_play(self.spec, outputs_NEHK, noise)).flatten(2)

    def _seen(self, observations: dict[str, Any]) -> Tensor:
        """[F, N, E, X] of what the actors see now; nothing is remembered."""
        if not observations:
            raise UserError("got no observations; expected a dict with those of at least one agent.")
        return self._kept(self._padded(observations))

    def _kept(self, obs_NEO: Tensor) -> Tensor:
        """[F, N, E, X] of these observations and those remembered."""
        if self._last is None:
            return self._frames.first(obs_NEO)
        kept_FNEX, acted_NEH = self._last
        if acted_NEH.shape[1] != obs_NEO.shape[1]:
            raise UserError(
                f"got observations of {obs_NEO.shape[1]} environments, {acted_NEH.shape[1]} before: this policy "
                f"remembers, call reset(num_envs) at the start of episodes."
            )
        return self._frames.after(kept_FNEX, acted_NEH, obs_NEO)

    def _padded(self, observations: dict[str, Any]) -> Tensor:
        """{agent: [E, own width]} to [N, E, O]; agents that are not there get zeros."""
        names = self.spec.agent_names
        if not observations.keys() & set(names):
            name = next(iter(observations))
            raise UserError(f"no agent {name!r}.{did_you_mean(name, names)} {self.spec.id} has {list(names)}.")
        count = len(next(iter(observations.values())))
        obs = torch.zeros(self.spec.num_agents, count, self.spec.obs_size)
        for n, agent in enumerate(self.spec.agents):
            if agent.name in observations:
                given = torch.as_tensor(np.asarray(observations[agent.name]), dtype=torch.float32)
                if given.shape != (count, agent.obs_size):
                    raise UserError(
                        f"observation of {agent.name!r} must have shape [{count}, {agent.obs_size}], "
                        f"got {list(given.shape)}."
                    )
                obs[n, :, : agent.obs_size] = given
        if not torch.isfinite(obs).all():
            bad = next(name for n, name in enumerate(names) if not torch.isfinite(obs[n]).all())
            raise UserError(f"observation of {bad!r} holds numbers that are not finite.")
        return obs

    def _allowed(self, masks: dict[str, Any] | None) -> Tensor:
        """[N, E or 1, H, K] of the spec's choices and the given masks."""
        mask = self.spec.head_mask[:, None]
        if not masks:
            return mask
        given = {name: np.asarray(one) for name, one in masks.items() if one is not None}
        mask = mask.repeat(1, max(map(len, given.values()), default=1), 1, 1)
        flat = {name: one for name, one in given.items() if one.ndim != 3}
        for name in given.keys() - flat.keys():
            mask[self._reader.index[name]] &= torch.as_tensor(given[name]).bool()
        if flat:
            for e in range(mask.shape[1]):
                allowed_NHK = self._reader.masks({name: one[e] for name, one in flat.items()})
                mask[:, e] &= torch.from_numpy(allowed_NHK)
        return mask

    @torch.no_grad()
    def _thought(self, kept_FNEX: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [N, E, H, K] and the states of recurrent actors after these observations."""
        obs_1NEO = self._frames.wide(kept_FNEX)[None]
        if not isinstance(self._actor, RecurrentActor):
            return self._actor.logits(obs_1NEO, self._parameters)[0], None
        if self._state_NEW is None:
            state_1NEW = obs_1NEO.new_zeros(*obs_1NEO.shape[:3], self._actor.mlp.width)
        else:
            state_1NEW = self._state_NEW[None]
        logits, after_1NEW = self._actor.step(obs_1NEO, state_1NEW, self._parameters)
        return logits[0], after_1NEW[0]

    # ------------------------------------------------------------- inspection
    def layers(self, agent: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weight float32 [I, W] and bias [W] of every layer of an agent's actor, on padded observations and choices.

        Where hidden layers are normalised, their means are taken off already (marl/learner/networks/grouped_mlp.py).

        Raises:
            UserError: the actors are recurrent.
        """
        if isinstance(self._actor, RecurrentActor):
            raise UserError("recurrent actors are no chain of layers; expected a policy without --maddpg.recurrent.")
        n = self.spec.agent_names.index(agent)
        flat = [parameter[n] for parameter in self._parameters]
        return [(weight.T.numpy(), bias[:, 0].numpy()) for weight, bias in zip(flat[::2], flat[1::2], strict=True)]

    def first_weights(self, agent: str) -> np.ndarray:
        """The first layer's weight [own width, W] of an agent's actor, on the newest observation."""
        n = self.spec.agent_names.index(agent)
        group = n if self._actor.group_N is None else int(self._actor.group_N[n])
        weight = self._actor.mlp.layers()[0][0][0, group]
        return weight[: self.spec.agents[n].obs_size].numpy()
