"""Would a gate by the error of values let rollouts be longer than the one by the error of observations?

    python -m benchmarks.world_model.value_errors

Beside agents that learn through DreamerV2's model: at every evaluation, from every frame of held-out episodes, how far
off observations are after 1 to K open-loop steps (the gate's measure, marl/world_model/imagination/gate.py), and how
far off is what the critics say of them, V(o) = Q'(o, greedy a), by the target networks. Both in standard deviations of
what is told. Nothing of it enters the training. Tuning seeds, one replica of each task.
Results: benchmarks/results/world_model/value_errors.json, value_errors.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gumbel.page import meta
from benchmarks.sample_efficiency import RESULTS, configuration, run
from benchmarks.world_model.sample_tasks import arms_of
from envs.streams import Stream
from marl.data.batch import BatchSource
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import joint_rows
from marl.runs.durable import replace_text
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.source import ImaginationSource
from marl.world_model.sequences import Sequences

TASKS = {
    "simple_speaker_listener": ("rssm_through", 2000),
    "simple_spread": ("rssm_through_shared", 3000),
    "simple_tag": ("rssm_through_wide_shared", 3000),
}
"""{task: arm, steps}."""
SEED = 5
AHEAD = 8  # steps: those of the loss through the model
BOUND = 0.1  # deviations, as `wm.gate`


def value_errors(learner: MADDPG, source: ImaginationSource, seq: Sequences, stream: Stream) -> list[float]:
    """Of the first replica after 1 .. AHEAD steps: root mean square over frames and agents, relative to the deviation
    of the true values over the same frames."""
    model, layout = source.training.model, source.rollouts.layout

    def value(obs_SNBO: Tensor) -> Tensor:
        action = relaxation.greedy_onehot(learner.target_actor(obs_SNBO), learner.head_mask).flatten(-2)
        return learner.target_critic(joint_rows(obs_SNBO, action))[0, 0]  # type: ignore[no-any-return]  # [N, B]

    length, rows = seq.first.shape[1:]
    state, going_STB, result = model.observe(seq, stream), seq.valid, []
    for k in range(1, AHEAD + 1):
        action, obs, follows = (torch.roll(x, -k, 1) for x in (seq.action, seq.obs, seq.follows))
        going_STB = going_STB & follows & (torch.arange(length) < length - k)[:, None]
        done_SBU = action.flatten(1, 2)
        state, seen = model.step(state, done_SBU, stream.uniform(length * rows, model.noise_size), uncertain=False)
        counted_B = going_STB.flatten(1, 2)[0]
        true_NB, off_NB = value(layout.split(obs.flatten(1, 2))), value(layout.assemble(seen.obs, done_SBU))
        true_NB, off_NB = true_NB[:, counted_B], off_NB[:, counted_B]
        relative_N = (off_NB - true_NB).square().mean(1) / true_NB.var(1)
        result.append(float(relative_N.mean().sqrt()))
    return result


def watching(rows: list[dict[str, Any]]) -> Callable[[MADDPG, BatchSource, int], None]:
    """Adds a row of both errors at every evaluation from which on there are held-out episodes."""
    stream = Stream(0, "value errors", [0])

    @torch.no_grad()
    def watch(learner: MADDPG, source: BatchSource, step: int) -> None:
        assert isinstance(source, ImaginationSource)
        if not source.gate.can_measure:
            return
        seq = source.training.episodes.held_out.windows(26, 64, stream)
        model = source.training.model
        observed, *_ = rollout_errors(model, model.observe(seq, stream), seq, AHEAD, source.rollouts.layout, stream)
        observation, value = observed[0].tolist(), value_errors(learner, source, seq, stream)
        rows.append({"step": step, "observation": observation, "value": value})

    return watch


def steps_within(errors: list[float]) -> int:
    """How many steps are all within the bound."""
    return next((k for k, error in enumerate(errors) if not error <= BOUND), len(errors))


def table(tasks: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for every fourth evaluation, and what a gate by values would have changed in all of them."""
    lines = [
        "| task | steps | observation off after 1 / 3 / 8 steps | value off | "
        f"steps within {BOUND:g}: observation, value |",
        "|---|---|---|---|---|",
    ]
    for task, rows in tasks.items():
        for row in rows[3::4]:
            words = [" / ".join(f"{row[what][k - 1]:.2f}" for k in (1, 3, 8)) for what in ("observation", "value")]
            within = ", ".join(str(steps_within(row[what])) for what in ("observation", "value"))
            lines.append(f"| {task} | {row['step']:,} | {' | '.join(words)} | {within} |")
    every = [[steps_within(row[what]) for what in ("observation", "value")] for rows in tasks.values() for row in rows]
    longer, shorter = (sum(sign * (value - seen) > 0 for seen, value in every) for sign in (1, -1))
    lines += [
        "",
        f"Of all {len(every)} evaluations the bound on values allows a longer rollout in {longer}, as long a one in "
        f"{len(every) - longer - shorter}, a shorter one in {shorter}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """`python -m benchmarks.world_model.value_errors`."""
    torch.set_num_threads(1)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for task, (name, steps) in TASKS.items():
        arm, rows = arms_of(task)[name], tasks.setdefault(task, [])
        config = configuration(task, arm, SEED, 1, ["--total-steps", str(steps)])
        run(task, arm, config, lambda text: print(text, flush=True), watching(rows))
        numbers = {"tasks": tasks, "meta": meta("python -m benchmarks.world_model.value_errors")}
        replace_text(RESULTS / "value_errors.json", json.dumps(numbers) + "\n")
        replace_text(RESULTS / "value_errors.md", table(tasks))
    print(table(tasks))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
