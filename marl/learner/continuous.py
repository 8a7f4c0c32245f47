"""Continuous heads: what actors output there becomes numbers in [-1, 1], with the noise of exploration.

x is an actor's output, e standard normal noise, s the standard deviation `maddpg.exploration`, which falls linearly
over the run, and c(y) holds y to [-1, 1].

| `maddpg.continuous` | collected      | target                        | actor loss                      | greedy  |
|---------------------|----------------|-------------------------------|---------------------------------|---------|
| deterministic       | c(tanh x + s e) | c(tanh x' + smoothing noise) | tanh x                          | tanh x  |
| gaussian            | tanh(x + s e)  | tanh(x' + s e)                | tanh(x + s e), differentiable in x | tanh x |

The actor loss is minus the critic's value at these numbers, so its gradient is the deterministic policy gradient (or
the reparameterised one of a squashed Gaussian): that of the critic at the number times 1 - tanh^2.

Source: deterministic policy gradient with Gaussian exploration, Lillicrap et al. 2015 (arXiv 1509.02971), for many
agents Lowe et al. 2017 (1706.02275), equation 6; smoothing of the target policy by clipped noise, Fujimoto et al. 2018
(1802.09477), section 5.3; squashed reparameterised Gaussian, Haarnoja et al. 2018 (1801.01290), appendix C.
Differs from source: the Gaussian's deviation is scheduled, not learned: without an entropy in the objective a learned
one falls to zero. Smoothing noise is clipped at 2.5 of its deviations, the ratio of the source's .5 and .2.

Shape suffixes: S replicas, N agents, B batch, H heads, K choices or numbers, A = H * K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.errors import UserError

CLIP = 2.5  # of smoothing noise, in its standard deviations
STREAMS = {"act": "numbers/act", "target": "numbers/target", "own": "numbers/own", "others": "numbers/others"}
"""What numbers are for, and the name of the stream whose noise is added."""


class Numbers:
    """The numbers of all continuous heads, from the actors' outputs.

    Args:
        spec: of the environment.
        config: the learner's settings.
        noise: streams by the names of `STREAMS`.
        deviation: 0-d, the present standard deviation of exploration (`Schedules`).

    Raises:
        UserError: a listening bonus, which compares the probabilities of choices.
    """

    def __init__(self, spec: EnvSpec, config: MADDPGConfig, noise: Mapping[str, Stream], deviation: Tensor) -> None:
        if config.listening_bonus > 0 and spec.routes:
            raise UserError(
                "maddpg.listening_bonus compares probabilities of choices, which continuous heads have not; leave it "
                "at 0."
            )
        self.mask = spec.number_mask.to(deviation.device)[:, None]  # [N, 1, H, K]
        self._config, self._noise, self._deviation = config, noise, deviation

    def __call__(self, outputs_SNBHK: Tensor, purpose: str, noise: Stream | None = None) -> Tensor:
        """Numbers [S, N, B, H, K], zero at the entries of choices.

        Args:
            outputs_SNBHK: of the actors of all agents.
            purpose: one of `STREAMS`.
            noise: is drawn from; None: the purpose's own stream.
        """
        noise = self._noise[STREAMS[purpose]] if noise is None else noise
        cfg = self._config
        if cfg.continuous == "gaussian":
            x = outputs_SNBHK + self._deviation * noise.normal(*outputs_SNBHK.shape[1:])
            return torch.tanh(x) * self.mask
        numbers = torch.tanh(outputs_SNBHK)
        if purpose == "act":
            numbers = numbers + self._deviation * noise.normal(*outputs_SNBHK.shape[1:])
        elif purpose == "target" and cfg.smoothing > 0:
            numbers = numbers + cfg.smoothing * noise.normal(*outputs_SNBHK.shape[1:]).clamp(-CLIP, CLIP)
        else:
            return numbers * self.mask
        return numbers.clamp(-1.0, 1.0) * self.mask

    def beside(
        self, value: Callable[[Tensor], Tensor], outputs_SNBHK: Tensor, noise: Stream | None = None
    ) -> Callable[[Tensor], Tensor]:
        """`value`, of own actions [S, N, B, A], as a function of the one-hots alone: the numbers are the actors' own.

        Gradients reach the outputs through them. `noise` as in the call.
        """
        own_SNBA = self(outputs_SNBHK, "own", noise).flatten(-2)
        return lambda onehots_SNBA: value(onehots_SNBA + own_SNBA)


def numbers_in_play(spec: EnvSpec, outputs: Tensor, noise: Tensor | None = None) -> Tensor:
    """Numbers [N, E, H, K] of a trained policy, zero at the entries of choices.

    Args:
        spec: of the environment.
        outputs: of the actors, [N, E, H, K].
        noise: of a sampled Gaussian policy, times its deviation; None: greedy, or a deterministic policy.
    """
    x = outputs if noise is None else outputs + noise
    return torch.tanh(x) * spec.number_mask[:, None]
