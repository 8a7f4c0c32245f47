"""How good a world model is: open-loop errors beside simple predictors', rewards, latents; figures and films of it.

Protocol: an episode's first `context` steps are observed, the rest is predicted from the actions alone. Errors are
root mean squares over episodes and all entries of the joint observation, message slots included (they are exact),
in the environment's units.

Shape suffixes: S replicas, T frames, B episodes, K predicted steps, F joint observation, N agents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import envs
from envs.conditions import Condition, Conditioned
from envs.history import History
from envs.streams import Stream
from marl.data.batch import Transitions
from marl.errors import UserError
from marl.figures import plots
from marl.learner import relaxation
from marl.results import INLINE, Record
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction, WorldModel, open_loop
from marl.world_model.sequences import FrameStore, Sequences
from marl.world_model.small.regression import LeastSquares

Policy = Callable[[Tensor], Tensor]
CONTEXT = 5  # observed steps
Numbers = tuple[tuple[float, ...], ...]  # [S][K] or [S][T]


@dataclass(frozen=True)
class OpenLoopError(Record):
    """Root mean square errors of one predictor: over all predicted steps, [S], and after each of them, [S][K]."""

    all: tuple[float, ...]
    steps: Numbers


@dataclass(frozen=True)
class Latents(Record):
    """What the latents do, frame by frame: nats, [S][T]; and how many tell frames apart, [S]."""

    kl: Numbers
    posterior_entropy: Numbers
    prior_entropy: Numbers
    active_latents: tuple[int, ...]


@dataclass(frozen=True)
class Assessment(Record):
    """What is measured of a world model on episodes that it did not see, per replica."""

    context: int  # observed steps
    episodes: int
    rmse: Mapping[str, OpenLoopError]  # of "model", "copy last", "mean" and, of vectors, "linear"
    reward_r2: Numbers  # [S][K], over episodes and agents; at most 1
    slots: tuple[float, ...] | None  # [S], share of imagined message entries that are exact; None without messages
    latents: Latents | None = field(default=None, metadata=INLINE)  # None: a model without latents
    flags_wrong: Numbers | None = None  # [S][K], balanced error rate of flags (flags.py); None: there are none


def collect(
    env_id: str,
    policy: Policy | None,
    replicas: int,
    episodes: int,
    steps: int,
    seed: int,
    own_action: bool = False,
    condition: Condition | None = None,
    **options: Any,
) -> Sequences:
    """Fresh episodes in the torch or PettingZoo environment, others in every replica; the same for the same seed.

    Args:
        env_id: as for `envs.make`.
        policy: observations [S, N, B, O] to logits [S, N, B, H, K], sampled; None: uniformly random choices.
        replicas: S.
        episodes: B.
        steps: of each episode; those that end earlier leave invalid frames.
        seed: of resets and choices.
        own_action: agents see their own last action, as those with a memory do.
        condition: what arrives in message slots; None: what is said.
        options: keyword arguments of `envs.make`.

    Raises:
        UserError: as `envs.make`; the condition does not fit to the agents.
    """
    env = envs.make(env_id, num_envs=replicas * episodes, **options)
    if condition is not None:
        env = Conditioned(env, condition, range(env.num_envs), group=episodes)
    return collect_in(History(env, 1, own_action=True) if own_action else env, policy, replicas, steps, seed)


def collect_in(env: envs.BatchedEnv, policy: Policy | None, replicas: int, steps: int, seed: int) -> Sequences:
    """Fresh episodes as `collect` has them, in environments that are dealt out to the replicas; they are closed."""
    spec, layout, episodes = env.spec, Layout(env.spec), env.num_envs // replicas
    stream = Stream(seed, "assess", range(replicas))
    heads = spec.head_mask[:, None]

    def dealt(x: Tensor, dim: int) -> Tensor:
        return x.unflatten(dim, (replicas, episodes)).movedim(dim, 0)

    def maybe(x: Tensor | None) -> Tensor | None:
        return None if x is None else dealt(x, 1)

    store = FrameStore(layout.widths, replicas, episodes, episodes * (steps + 1), "cpu")
    obs = dealt(env.reset(seed=seed), 1)
    running_SB = torch.ones(replicas, episodes, dtype=torch.bool)
    first = running_SB
    for _ in range(steps):
        logits = torch.zeros(*obs.shape[:3], spec.num_heads, spec.head_size) if policy is None else policy(obs)
        mask = maybe(env.mask)
        allowed = heads if mask is None else heads & mask
        action = relaxation.sample_onehot(logits, stream.gumbel(*logits.shape[1:]), allowed)
        step = env.step(action.argmax(-1).movedim(0, 1).flatten(1, 2))
        ended = dealt(step.terminated, 1), dealt(step.truncated, 1)
        reward, after = dealt(step.reward, 1), dealt(step.final_obs, 1)
        active, next_mask = maybe(step.active), maybe(step.final_mask)
        chosen = action.flatten(3) if active is None else action.flatten(3) * active[..., None]
        row = Transitions(
            obs, torch.zeros_like(obs), first, chosen, reward, *ended, after, active, mask=mask, next_mask=next_mask
        )
        store.add(rows_of(layout, row), running_SB)
        running_SB = running_SB & ~(ended[0] | ended[1]).all(1)
        first = torch.zeros_like(first)
        obs = dealt(step.obs, 1)
    env.close()
    return store.from_start(steps + 1)


def assess(model: WorldModel, layout: Layout, seq: Sequences, train: Sequences, stream: Stream) -> Assessment:
    """Everything that is measured, up to the last step that two episodes of every replica reach.

    Args:
        model: the world model.
        layout: its layout.
        seq: episodes to predict; in every replica two of more than CONTEXT + 1 frames.
        train: other episodes, for the baselines "mean" and "linear".
        stream: noise of the model's samples.

    Raises:
        UserError: in a replica fewer are.
    """
    seq = _reached(seq)
    ahead = seq.select(slice(CONTEXT + 1, None))
    going_SKB = (ahead.valid & ~ahead.first).long().cumprod(1).bool()
    predicted = open_loop(model, seq, CONTEXT, stream)
    imagined = _with_messages(layout, predicted.obs, ahead.action)
    wrong = None
    if layout.flags.size:
        imagined, wrong = _flagged(layout, imagined, seq, predicted, going_SKB)
    guesses = {
        "model": imagined,
        "copy last": seq.obs[:, CONTEXT : CONTEXT + 1].expand_as(ahead.obs),
        "mean": mean_where(train.obs.flatten(1, 2), train.valid.flatten(1, 2)[..., None], 1)[:, None, None],
    }
    if layout.spec.picture is None:  # else it would have as many columns as there are pixels
        guesses["linear"] = _linear(layout, seq, train)
    rmse = {}
    for name, guess in guesses.items():
        squares_SKB = (guess - ahead.obs).square().mean(3)
        rmse[name] = OpenLoopError(
            all=_plain(mean_where(squares_SKB, going_SKB, (1, 2)).sqrt()),
            steps=_plain(mean_where(squares_SKB, going_SKB, 2).sqrt()),
        )
    going_SKB1 = going_SKB[..., None]
    centred = ahead.reward - mean_where(ahead.reward, going_SKB1, 2)[:, :, None]
    unexplained = mean_where((predicted.reward - ahead.reward).square(), going_SKB1, 2).sum(2)
    variance = mean_where(centred.square(), going_SKB1, 2).sum(2)
    copied = [j for j in range(layout.full_size) if j not in set(layout.dynamic_J.tolist())]
    right = (imagined[..., copied] == ahead.obs[..., copied]).float().mean(3)
    latents = {name: _plain(value) for name, value in model.diagnose(seq, stream).items()}
    return Assessment(
        context=CONTEXT,
        episodes=seq.first.shape[2],
        rmse=rmse,
        reward_r2=_plain(1.0 - unexplained / variance.clamp(min=1e-12)),
        slots=_plain(mean_where(right, going_SKB, (1, 2))) if copied else None,
        latents=Latents(**latents) if latents else None,
        flags_wrong=wrong,
    )


def _reached(seq: Sequences) -> Sequences:
    """The frames up to the last one that two episodes of every replica reach: of one alone, R^2 has no variance."""
    going_STB = (seq.valid & ~seq.first)[:, CONTEXT + 1 :].long().cumprod(1)
    steps_S = (going_STB.sum(2) >= 2).sum(1)
    if not bool((steps_S > 0).all()):
        short = ", ".join(map(str, (steps_S == 0).nonzero()[:, 0].tolist()))
        raise UserError(
            f"fewer than two episodes of replica {short} have more than {CONTEXT} steps, of which {CONTEXT} are "
            f"observed; expected longer episodes, or more of them (--episodes)."
        )
    return seq.select(slice(0, CONTEXT + 1 + int(steps_S.min())))


def _flagged(
    layout: Layout, imagined_SKBF: Tensor, seq: Sequences, predicted: Prediction, going_SKB: Tensor
) -> tuple[Tensor, Numbers]:
    """Imagined rows without agents that are gone, and the error rate of the flags after each step, [S][K]."""
    flags, start = layout.flags, seq.flags[:, CONTEXT : CONTEXT + 1]
    ahead = seq.flags[:, CONTEXT + 1 :]
    guess = start.expand_as(ahead) if predicted.flags is None else predicted.flags
    if flags.agents:
        before = torch.cat([start, guess[:, :-1]], dim=1)
        every = torch.arange(layout.full_size)
        shown = flags.shown(before.flatten(1, 2), guess.flatten(1, 2), every)
        imagined_SKBF = imagined_SKBF * shown.unflatten(1, ahead.shape[1:3])
    steps = zip(guess.unbind(1), ahead.unbind(1), going_SKB.to(ahead.dtype).unbind(1), strict=True)
    return imagined_SKBF, _plain(torch.stack([flags.wrong(*step) for step in steps], dim=1))


def _plain(values: Tensor) -> Any:
    """A tensor of one or two dimensions as tuples of numbers."""
    return tuple(tuple(row) if isinstance(row, list) else row for row in values.tolist())


def mean_where(x: Tensor, valid: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over `dim` of the entries where `valid`, a bool that broadcasts; 0 where there is none."""
    weight = valid.to(x.dtype).expand_as(x)
    return torch.where(valid, x, 0.0).sum(dim) / weight.sum(dim).clamp(min=1.0)


def _with_messages(layout: Layout, obs_SKBJ: Tensor, action_SKBU: Tensor) -> Tensor:
    """Predicted entries and the messages just sent as rows [S, K, B, F]."""
    steps = obs_SKBJ.shape[1:3]
    return layout.join(layout.assemble(obs_SKBJ.flatten(1, 2), action_SKBU.flatten(1, 2))).unflatten(1, steps)


def _linear(layout: Layout, seq: Sequences, train: Sequences) -> Tensor:
    """Open-loop predictions [S, K, B, F] of least squares on the transitions of `train`."""

    def inputs(obs: Tensor, action: Tensor) -> Tensor:
        return torch.cat([obs, action, torch.ones_like(obs[..., :1])], dim=-1)

    rows = train.obs[..., layout.dynamic_J]
    x, y = inputs(rows[:, :-1], train.action[:, 1:]).flatten(1, 2), rows[:, 1:].flatten(1, 2)
    fit = LeastSquares(x.shape[2], y.shape[2], len(x), x.device)
    fit.add(x, y, train.follows[:, 1:].flatten(1, 2))
    fit.solve()
    obs, steps = seq.obs[:, CONTEXT][..., layout.dynamic_J], []
    for t in range(CONTEXT + 1, seq.obs.shape[1]):
        obs = fit(inputs(obs, seq.action[:, t]))
        steps.append(obs)
    return _with_messages(layout, torch.stack(steps, 1), seq.action[:, CONTEXT + 1 :])


# ---------------------------------------------------------------------- pictures
def errors_figure(result: Assessment) -> Figure:
    """Open-loop error and the rewards' R^2 over the steps of an episode; means over replicas with intervals."""
    figure, (left, right) = plots.canvas(3.2, 2 * plots.WIDTH, columns=2)
    steps = result.context + 1 + np.arange(len(result.reward_r2[0]))
    for colour, (name, entry) in zip(plots.COLOURS, result.rmse.items(), strict=False):
        plots.curve(left, steps, np.transpose(entry.steps), colour, name)
    plots.curve(right, steps, np.transpose(result.reward_r2), plots.COLOURS[0], "model")
    for ax in (left, right):
        ax.axvspan(0, result.context, color=plots.FAINT, alpha=0.2, linewidth=0)
        ax.set_xlim(0, steps[-1])
    left.set_ylim(bottom=0)
    right.set_ylim(-0.05, 1.05)
    left.legend(fontsize=plots.FONT - 1, frameon=False)
    plots.label(left, "Open-loop error of the observation (grey: observed)", "step", "root mean square error")
    plots.label(right, "Rewards, from actions alone", "step", "R²")
    return figure


def latents_figure(latents: Latents) -> Figure:
    """KL and entropies over the steps of an episode."""
    figure, ax = plots.canvas(3.2)
    names = {"kl": "KL(posterior, prior)", "posterior_entropy": "posterior's entropy", "prior_entropy": "prior's"}
    for colour, (name, text) in zip(plots.COLOURS, names.items(), strict=False):
        values = np.transpose(getattr(latents, name))
        plots.curve(ax, np.arange(len(values)), values, colour, text)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=plots.FONT - 1, frameon=False)
    active = ", ".join(str(n) for n in latents.active_latents)
    plots.label(ax, f"Latents over an episode ({active} active)", "step", "nats, summed over latents")
    return figure


def film(layout: Layout, seq: Sequences, predicted: Prediction, episodes: int = 3) -> list[np.ndarray]:
    """Imagined (rings) against true (dots) episodes of the first replica, one panel an agent.

    Neighbouring entries of an agent's own observation, messages left out, are drawn as points of a plane: in MPE these
    are its velocity and where everything is relative to it. An episode is drawn until it ends.
    """
    limit = float(seq.obs[0, ..., layout.dynamic_J].abs().max()) * 1.05
    kept = set(layout.dynamic_J.tolist())
    sizes = [agent.obs_size for agent in layout.spec.agents]
    offsets = np.cumsum([0, *sizes])
    own = [[j for j in range(offsets[n], offsets[n + 1]) if j in kept] for n in range(len(sizes))]
    imagined = _with_messages(layout, predicted.obs, seq.action[:, CONTEXT + 1 :])
    frames = []
    for b in range(min(episodes, seq.first.shape[2])):
        for t in range(int(seq.length_SB[0, b])):
            guess = imagined[0, t - CONTEXT - 1, b] if t > CONTEXT else None
            frames.append(_frame(layout, own, seq.obs[0, t, b], guess, limit, b, t))
    return frames


def _frame(
    layout: Layout, own: list[list[int]], true_F: Tensor, guess_F: Tensor | None, limit: float, episode: int, t: int
) -> np.ndarray:
    figure, axes = plots.canvas(2.6, 2.4 * len(own), columns=len(own), squeeze=False)
    for n, ax in enumerate(axes[0]):
        for k, j in enumerate(own[n][:-1:2]):
            colour = plots.COLOURS[k % len(plots.COLOURS)]
            ax.plot(true_F[j], true_F[j + 1], "o", color=colour, markersize=5)
            if guess_F is not None:
                ax.plot(guess_F[j], guess_F[j + 1], "o", color=colour, markersize=11, fillstyle="none")
        ax.set_xlim(-limit, limit)
        ax.set_ylim(-limit, limit)
        ax.set_aspect("equal")
        predicted = "observed" if guess_F is None else "rings: imagined"
        plots.label(ax, f"{layout.spec.agents[n].name}\nepisode {episode + 1}, step {t}\n{predicted}")
    return plots.image(figure, dpi=80)
