"""Does the receiver listen? What it would do, had it heard another message.

The receiver's own observations are taken as they were recorded, every symbol in turn is written into the slot, and the
policy is asked for the distribution of each head. Nothing is stepped. Valid for players without memory, and asked
without action masks.

Legend: `J` heard steps, `E` episodes, `W` width of an observation, `V` symbols, `H` heads, `K` choices of a head.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from envs.spec import EnvSpec
from marl.channels import Channel, Heard, responses_of, used_symbols
from marl.information import Floats, Resampler
from marl.rollout import Actions, Masks, Observations


class Predictable(Protocol):
    """A player that tells the distribution of its choices."""

    def reset(self, num_envs: int) -> None: ...

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions: ...

    def probabilities(self, observations: Observations, masks: Masks | None = None) -> dict[str, Floats]:
        """{agent: float64 [E, H, K]}, each head's choices first and zeros behind them."""
        ...


def counterfactuals(player: Predictable, spec: EnvSpec, channel: Channel, obs: Observations) -> Floats:
    """The receiver's distributions under every symbol: {agent: [..., W]} of all agents to float64 [..., V, H, K]."""
    name = spec.agent_names[channel.receiver]
    leading = obs[name].shape[:-1]
    rows = {agent: array.reshape(-1, array.shape[-1]) for agent, array in obs.items()}
    player.reset(len(rows[name]))
    answers = [
        np.asarray(player.probabilities({**rows, name: channel.write(rows[name], symbol)})[name], dtype=np.float64)
        for symbol in range(channel.symbols)
    ]
    stacked = np.stack(answers, axis=1)
    return stacked.reshape(*leading, *stacked.shape[1:])


def causal_influence(answers: Floats, weights: Floats) -> Floats:
    """sum_m p(m) KL(pi(. | o, do m) || sum_m' p(m') pi(. | o, do m')) in bits: [..., V, K] and p [V] to [...].

    It is the information that a message drawn from p carries about the action: 0 where the receiver ignores it, at
    most min(H(p), log2 K). With p(m | s) of a deterministic speaker it would always be 0, so p is the marginal of the
    sender or uniform.

    Source: Lowe et al., "On the pitfalls of measuring emergent communication", AAMAS 2019, section 4.2.
    Differs from source: their code averages over symbols where the formula sums, which adds log2 V bits.
    """
    mixture = np.einsum("m,...mk->...k", weights, answers)[..., None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((answers > 0) & (mixture > 0), np.log2(answers / mixture), 0.0)
    return np.einsum("m,...mk->...", weights, answers * ratio)


def listening(player: Predictable, spec: EnvSpec, heard: Heard, resampler: Resampler) -> dict[str, Any]:
    """{head: influence of the messages on it} for every head of the receiver, the head that answers first.

    Each head has `cic_marginal`, `cic_uniform`, `flip_rate` (another symbol of the vocabulary changes the greedy
    choice) and `flip_rate_used` (another symbol that the sender uses does), as mean over an episode's heard steps,
    then over episodes, with a 95 % interval over episodes; and `ceiling`, the largest possible CIC in bits.
    """
    channel = heard.channel
    answers = counterfactuals(player, spec, channel, heard.obs)
    marginal = np.bincount(heard.sent[heard.valid], minlength=channel.symbols) / heard.valid.sum()
    uniform = np.full(channel.symbols, 1 / channel.symbols)
    used = used_symbols(heard)
    first = responses_of(spec, channel.receiver)
    heads = spec.agents[channel.receiver].heads
    found: dict[str, Any] = {}
    for h in [*first, *(h for h in range(len(heads)) if h not in first)]:
        pi = answers[..., h, : heads[h].size]
        greedy = pi.argmax(axis=-1)
        measures = {
            "cic_marginal": causal_influence(pi, marginal),
            "cic_uniform": causal_influence(pi, uniform),
            "flip_rate": (greedy != greedy[..., :1]).any(axis=-1),
            "flip_rate_used": (greedy[..., used] != greedy[..., used[:1]]).any(axis=-1),
        }
        found[heads[h].name] = {
            **{name: interval_of(heard.episode_mean(values), resampler) for name, values in measures.items()},
            "ceiling": float(np.log2(min(channel.symbols, heads[h].size))),
        }
    return found


def interval_of(values: Floats, resampler: Resampler) -> dict[str, float]:
    """{mean, low, high} of one number an episode [E]."""
    low, high = resampler.mean_interval(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def input_norm(weight: np.ndarray, channel: Channel) -> dict[str, float]:
    """How large the first layer's weights on the message are, of its weight [W, hidden]. A diagnostic only.

    `message` and `rest` are root mean squares over inputs of the norm of an input's weights, so that they can be
    compared whatever the number of inputs; `ratio` is message / rest (0 where the rest is 0).
    Source: the "message input norm" of Lowe et al., AAMAS 2019. Differs from source: per input, not summed.
    """
    norms = np.linalg.norm(np.asarray(weight, dtype=np.float64), axis=1)
    slot = np.zeros(len(norms), dtype=bool)
    for route in channel.routes:
        slot[route.slot] = True
    message = float(np.sqrt(np.mean(norms[slot] ** 2)))
    rest = float(np.sqrt(np.mean(norms[~slot] ** 2))) if (~slot).any() else 0.0
    return {"message": message, "rest": rest, "ratio": message / rest if rest > 0 else 0.0}
