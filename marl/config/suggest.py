"""Which setting somebody may have meant by a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["suggestions"]

ALIASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("lr", "learning_rate", "learningrate", "step_size"): ("maddpg.actor_lr", "maddpg.critic_lr", "wm.lr"),
    ("batch", "batchsize", "minibatch", "minibatch_size"): ("maddpg.batch_size",),
    ("steps", "timesteps", "total_timesteps", "num_steps", "epochs"): ("total_steps",),
    ("max_steps",): ("total_steps", "evaluation.max_steps"),
    ("seeds", "num_seeds", "replicas", "runs"): ("num_replicas", "seed"),
    ("envs", "n_envs", "num_env", "environments"): ("num_envs",),
    ("discount", "discount_factor"): ("maddpg.gamma",),
    ("polyak", "target_update"): ("maddpg.tau",),
    ("buffer", "buffer_size", "replay_size", "memory"): ("replay.capacity",),
    ("hidden_size", "hidden_sizes", "hidden_dim"): ("maddpg.hidden", "wm.hidden"),
    ("grad_clip", "clip", "max_norm"): ("maddpg.max_grad_norm", "wm.max_grad_norm"),
    ("gpu", "cuda"): ("device",),
    ("out", "output", "outdir", "log_dir", "logdir", "save_dir"): ("run_dir",),
}
"""What other packages call our settings -> ours, the likeliest first; those of `wm` only where it is named."""

_CLOSE, _LIKE = 0.7, 0.5  # cutoffs of difflib's ratio


def suggestions(given: str, known: Iterable[str]) -> list[str]:
    """At most three names of `known` that `given` may stand for, the likeliest first.

    Args:
        given: as it was written, dotted where it names a group: "maddpg.lr".
        known: dotted names of all settings, groups and flags.
    """
    names = list(known)
    group, _, last = given.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == group}
    other = [ours for words, settings in ALIASES.items() if last in words for ours in settings if ours in names]
    tries: list[Sequence[str]] = [
        [name for name in other if name in siblings.values()] if group else [],
        [] if not group and other else _close(last, siblings, _CLOSE),
        [name for name in other if not name.startswith("wm.")],
        [name for name in names if name.rpartition(".")[2] == last],
        _close(last, siblings, _LIKE),
        difflib.get_close_matches(given, names, n=3, cutoff=_LIKE),
    ]
    return next((list(names)[:3] for names in tries if names), [])


def _close(last: str, siblings: dict[str, str], cutoff: float) -> list[str]:
    return [siblings[name] for name in difflib.get_close_matches(last, list(siblings), n=3, cutoff=cutoff)]
