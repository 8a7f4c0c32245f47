"""What each part of DreamerV2's model is for: one part taken out at a time, where memory is needed and where it is not.

    python -m benchmarks.world_model.ablations                          every task and arm that the record lacks
    python -m benchmarks.world_model.ablations --arms "without h"       these arms only
    python -m benchmarks.world_model.ablations --page                   the table of docs/world_model.md alone

Tasks: simple_speaker_listener, whose next observation is a function of the present one and the actions; and three in
which it is not: the listener does not see its velocity; messages arrive three steps late; they are misheard, too.
Protocol: three seeds, which are replicas with episodes of their own; 200 episodes to learn from, 20 more to choose by
(what of a model imagines), 200 more to predict, a third of each by a uniformly random policy and the rest by random
linear policies, a new one in every episode; 5 steps observed, 20 predicted from the actions alone. Errors are those of
the gate (marl/world_model/imagination/gate.py): in standard deviations, root mean squares over episodes and entries.
Each arm is written into the record when it is done, so that a second start goes on behind it; a record of another
protocol is begun anew. Results: benchmarks/results/world_model/ablations.json, docs/world_model.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import envs
from benchmarks.gumbel.page import ROOT, meta
from benchmarks.world_model import ablated
from benchmarks.world_model.prediction import RESULTS, STEPS, stored
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.runs.durable import replace_text
from marl.world_model.assess import CONTEXT, collect_in
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout
from marl.world_model.losses import relative_error
from marl.world_model.protocol import WorldModel, open_loop
from marl.world_model.sequences import Sequences

RECORD, PAGE = RESULTS / "ablations.json", ROOT / "docs" / "world_model.md"
AHEAD = (1, 3, 8, 20)  # steps
WINDOW = STEPS // 2 + 1
Make = Callable[[Layout, WorldModelConfig, float, Stream], WorldModel]


TASKS: dict[str, dict[str, Any]] = {
    "simple_speaker_listener": {},
    "without velocities": {"velocity": False},
    "messages 3 steps late": {"delay": 3},
    "3 steps late, a tenth misheard": {"delay": 3, "noise": 0.1},
}
"""Arguments of `speaker_listener_variant`."""


def small(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> WorldModel:
    """The small model, which sees one observation."""
    return make_model(layout, replace(config, kind="mlp"), gamma, stream)


ARMS: dict[str, Make] = {
    "full": ablated.full,
    "without z": ablated.without_z,
    "without h": ablated.without_h,
    "without KL balancing": ablated.unbalanced,
    "circulated KL": ablated.circulated_kl,
    "circulated loss": ablated.circulated_loss,
    "decoded from the state": ablated.from_state,
    "small model": small,
}
COPY = "copy last"


@dataclass(frozen=True)
class Protocol:
    """How much an arm learns from; the widths are below the preset's, for time."""

    replicas: int = 3
    episodes: int = 200
    choosing: int = 20
    test: int = 200
    updates: int = 400
    samples: int = 8
    latents: int = 16
    hidden: int = 128
    deter: int = 128
    reward_updates: int = 4

    def config(self) -> WorldModelConfig:
        return WorldModelConfig(
            kind="rssm", latents=self.latents, hidden=self.hidden, deter=self.deter, reward_updates=self.reward_updates
        )


class Mixture:
    """A third of the episodes uniformly random, the rest by linear policies of random weights, one an episode.

    Args:
        spec: agents and heads.
        replicas: S.
        seed: of the weights.
    """

    SHARPNESS = (0.0, 2.0, 6.0)

    def __init__(self, spec: EnvSpec, replicas: int, seed: int) -> None:
        self._spec, self._stream = spec, Stream(seed, "mixture", range(replicas))
        self._weights: Tensor | None = None

    def __call__(self, obs_SNBO: Tensor) -> Tensor:
        """Logits [S, N, B, H, K]."""
        agents, rows, width = obs_SNBO.shape[1:]
        if self._weights is None:
            sharp_B = torch.tensor(self.SHARPNESS)[torch.arange(rows) % len(self.SHARPNESS)]
            drawn = self._stream.normal(agents, rows, width, self._spec.action_size)
            self._weights = drawn * sharp_B[:, None, None]
        logits = (obs_SNBO[..., None] * self._weights).sum(3)
        return logits.unflatten(-1, (self._spec.num_heads, self._spec.head_size))


def episodes(task: dict[str, Any], replicas: int, count: int, seed: int) -> tuple[Layout, Sequences]:
    """Fresh episodes of a task in every replica, and how an observation is laid out."""
    env = envs.make("speaker_listener_variant", num_envs=replicas * count, env_args=task)
    policy = Mixture(env.spec, replicas, seed)
    return Layout(env.spec), collect_in(env, policy, replicas, STEPS, seed)


def measure(make: Make, task: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    """Train one arm; its errors after AHEAD steps, [S][4], and processor seconds of training, of all replicas."""
    replicas, config = protocol.replicas, protocol.config()
    layout, learned = episodes(task, replicas, protocol.episodes, 1)
    model = make(layout, config, 0.95, Stream(0, "model", range(replicas)))
    store, stream = stored(learned, layout, model), Stream(0, "training", range(replicas))
    started = time.process_time()
    for _ in range(protocol.updates):
        seq = store.windows(WINDOW, config.size("sequences"), stream)
        model.update(seq, stream, store.windows(2, model.pairs, stream) if model.pairs else None)
    spent = time.process_time() - started
    model.check()
    model.calibrate(episodes(task, replicas, protocol.choosing, 500_000)[1], stream)
    test = episodes(task, replicas, protocol.test, 1_000_000)[1]
    return {"processor_seconds": round(spent, 1), **errors(model, layout, test, protocol.samples)}


def errors(model: WorldModel, layout: Layout, seq: Sequences, samples: int) -> dict[str, list[list[float]]]:
    """Errors after AHEAD steps, [S][4]: of samples of the future, and of the mean of these (`expected`)."""
    stream = Stream(0, "test", range(len(seq.obs)))
    drawn = [open_loop(model, seq, CONTEXT, stream) for _ in range(samples)]
    truth = seq.select(slice(CONTEXT + 1, None))
    true_obs, true_reward = truth.obs[..., layout.dynamic_J], truth.reward

    def off(scale: Any, guesses: Sequence[Tensor], true: Tensor) -> list[list[float]]:
        true = scale.apply(true.flatten(1, 2))
        squares = [relative_error(true, scale.apply(guess.flatten(1, 2))).square() for guess in guesses]
        return _after(torch.stack(squares).mean(0).unflatten(1, truth.first.shape[1:]))

    observed = [one.obs for one in drawn]
    return {
        "observation": off(model.obs_scale, observed, true_obs),
        "expected": off(model.obs_scale, [torch.stack(observed).mean(0)], true_obs),
        "reward": off(model.reward_scale, [one.reward for one in drawn], true_reward),
    }


def _after(squares_SKBX: Tensor) -> list[list[float]]:
    error_SK = squares_SKBX.mean((2, 3)).sqrt()
    return [[round(float(row[k - 1]), 4) for k in AHEAD] for row in error_SK]


# --------------------------------------------------------------------- record and page
def record(protocol: Protocol, path: Path) -> dict[str, Any]:
    """What is there of this protocol; else an empty one."""
    fresh = {"protocol": asdict(protocol), "tasks": {}}
    there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else fresh
    return there if there["protocol"] == asdict(protocol) else fresh


def run(
    arms: Sequence[str], protocol: Protocol, path: Path, say: Callable[[str], None], tasks: Sequence[str] = tuple(TASKS)
) -> dict[str, Any]:
    """Measure what the record at `path` lacks, arm by arm."""
    numbers = record(protocol, path)
    for name in tasks:
        for arm in arms:
            measured = numbers["tasks"].setdefault(name, {})
            if arm in measured:
                continue
            measured[arm] = measure(ARMS[arm], TASKS[name], protocol)
            numbers["meta"] = meta("python -m benchmarks.world_model.ablations")
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps(numbers, indent=1) + "\n")
            say(f"{name}, {arm}: {json.dumps(measured[arm])}")
    return numbers


def table(numbers: dict[str, Any]) -> str:
    """Markdown: means over the seeds, and the range of the error after the last step."""
    ahead = " / ".join(map(str, AHEAD))
    lines = [
        f"| task | arm | observation after {ahead} steps | range after {AHEAD[-1]} | mean of the samples after "
        f"{AHEAD[-1]} | rewards after {ahead} | processor s a seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for arm in ARMS:
            if (one := numbers["tasks"].get(task, {}).get(arm)) is None:
                continue
            last = [row[-1] for row in one["observation"]]
            seconds = one["processor_seconds"] / len(last)
            cells = [task, arm, _means(one["observation"]), f"{min(last):.3f} to {max(last):.3f}"]
            cells += [_means(one["expected"]).rpartition(" / ")[2], _means(one["reward"]), f"{seconds:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _means(rows: list[list[float]]) -> str:
    return " / ".join(f"{sum(column) / len(column):.3f}" for column in zip(*rows, strict=True))


def written(page: str, numbers: dict[str, Any]) -> str:
    """The page with the table of these numbers between its markers."""
    begin, end = "<!-- ablations: begin -->\n", "<!-- ablations: end -->"
    before, after = page.partition(begin)[0], page.partition(end)[2]
    return f"{before}{begin}{table(numbers)}{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.world_model.ablations`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model.ablations", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--arms", choices=tuple(ARMS), nargs="+", default=list(ARMS), help="arms (default: all)")
    parser.add_argument("--page", action="store_true", help="the table of what is there, nothing is measured")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    numbers = run([] if options.page else options.arms, Protocol(), RECORD, print)
    replace_text(PAGE, written(PAGE.read_text(encoding="utf-8"), numbers))
    print(table(numbers))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
