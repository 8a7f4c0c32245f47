"""What `benchmarks.speed.update` measures: one case (task, replicas, batch) with its contenders, and their processes.

A contender is a function of a number of repeats that returns the processor seconds of each call, and a call is the
sixteen updates of a training round with the batches that they draw; the products draw none.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import envs
from benchmarks.speed.throughput import ONE_THREAD
from benchmarks.speed.update_eager import EagerMADDPG
from envs.streams import Stream
from marl.config.resolve import tuned
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner.explicit import perceptrons
from marl.learner.explicit import update as explicit_update
from marl.learner.explicit.kernels import select
from marl.learner.maddpg import MADDPG

UPDATES = 16  # of a training round: one for each environment
PROGRESS = 0.1  # of the run, for schedules
STEPS = 128  # joint steps of sixteen environments that fill the replay
CALLS = ("bmm", "baddbmm")
NETWORKS = ("actor", "critic", "target_actor", "target_critic")
Contender = Callable[[int], list[float]]


class _Recording:
    """`torch` as a module sees it, which keeps what its products are called with."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(torch, name)
        if name not in CALLS:
            return function

        def kept(*args: Any, **named: Any) -> Any:
            self.calls.append(lambda: function(*args, **named))
            return function(*args, **named)

        return kept


class Case:
    """Every contender of this process has a learner and a replay of its own, all alike.

    Args:
        env_id: the task, whose shipped settings are taken.
        replicas: trained side by side.
        rows: the batch of each.
        continuous: mpe2's continuous_actions=True; the other settings are those of the discrete task.
    """

    def __init__(self, env_id: str, replicas: int, rows: int, continuous: bool = False) -> None:
        settings = tuned(env_id).maddpg
        env = envs.make(env_id, replicas * UPDATES, env_args={"continuous_actions": True} if continuous else None)
        env.reset(seed=0)
        if settings.frames > 1:
            raise SystemExit(f"{env_id} sees several frames: name another task")
        self.spec, self.settings, self.replicas, self.rows = env.spec, settings, replicas, rows
        self.learner = MADDPG(env.spec, settings, 0, range(replicas))
        stream = Stream(0, "replay", range(replicas))
        self.replay = Replay(env.spec, STEPS * UPDATES, UPDATES, stream, settings.gamma, settings.n_step)
        collector = Collector(env, self.learner.act, replicas)
        for _ in range(STEPS + settings.n_step - 1):
            self.replay.add(collector.collect()[0])
        self.learner.update_many(self.replay, rows, 4, PROGRESS)  # Adam's moments are no longer zero
        self.widths = [agent.obs_size for agent in env.spec.agents]
        self.actions = [agent.num_actions for agent in env.spec.agents]

    def contenders(self) -> dict[str, Contender]:
        """Those of this process."""
        forms = ["torch"] if select().form == "torch" else ["numba", "torch"]
        results = {"products": timed(self._products())}
        for name in [*(f"explicit, {form}" for form in forms), "autograd"]:
            one = copy.deepcopy(self.learner)
            one.use(name.removeprefix("explicit, "))
            source = copy.deepcopy(self.replay)
            results[name] = timed(lambda one=one, source=source: one.update_many(source, self.rows, UPDATES, PROGRESS))
        if self.replicas == 1 and not self.spec.continuous:
            eager = EagerMADDPG(self.widths, self.actions, self.rows, self.settings.hidden[0])
            results["eager loop"] = timed(lambda: [eager.update() for _ in range(UPDATES)])
        return results

    def _products(self) -> Callable[[], None]:
        """All products of one update, as recorded while it ran."""
        recording, learner = _Recording(), copy.deepcopy(self.learner)
        batch = copy.deepcopy(self.replay).sample(self.rows)
        modules = (explicit_update, perceptrons)
        learner.update(batch, PROGRESS)
        for module in modules:
            module.torch = recording  # type: ignore[attr-defined]
        try:
            learner.update(batch, PROGRESS)
        finally:
            for module in modules:
                module.torch = torch  # type: ignore[attr-defined]
        calls = recording.calls

        def products() -> None:
            for _ in range(UPDATES):
                for call in calls:
                    call()

        return products

    # ------------------------------------------------------- other processes
    def save(self, file: Path) -> None:
        """Sizes and settings as JSON, parameters, moments and replay as arrays beside it (.npz), for the peers."""
        spec, cfg, learner = self.spec, self.settings, self.learner
        learner.schedules.follow(PROGRESS)
        schedules, senders = learner.schedules, list(spec.senders)
        routes = [route for route in spec.routes if route.exact and cfg.communication_correction]
        K = spec.head_size
        bonus = sorted({(route.sender, route.head) for route in spec.routes}) if cfg.signalling_bonus > 0 else []
        sizes = {
            "observations": self.widths,
            "actions": self.actions,
            "rows": self.rows,
            "agents": spec.num_agents,
            "width": spec.obs_size,
            "heads": spec.num_heads,
            "choices": K,
            "allowed": spec.head_mask.flatten(1).tolist(),
            "senders": senders,
            # of each: place among the senders, where its symbol begins, its size, the receiver, where it is heard
            "routes": [[senders.index(r.sender), r.head * K, r.size, r.receiver, r.start] for r in routes],
            "bonuses": [[s, h * K, int(spec.head_mask[s, h].sum())] for s, h in bonus],
            "columns": self.replay.columns,
            "actor_sizes": learner.actor.mlp.sizes,
            "critic_sizes": learner.critic.mlp.sizes,
            "step": int(learner.moments["actor"].step),
            "actor_lr": float(schedules.actor_lr),
            "critic_lr": float(schedules.critic_lr),
            "temperature": float(schedules.temperature),
            "signalling": float(schedules.signalling),
            **{name: getattr(cfg, name) for name in ("gamma", "tau", "max_grad_norm", "logit_penalty", "layer_norm")},
            "signalling_k": cfg.signalling_k,
        }
        file.write_text(json.dumps(sizes))
        arrays = {name: getattr(learner, name).mlp.flat for name in NETWORKS} | {"store": self.replay.data_SCD}
        for name, moments in learner.moments.items():
            arrays |= {f"{name}_mean": moments.mean_SGP, f"{name}_square": moments.square_SGP}
        np.savez(file.with_suffix(".npz"), **{name: _numbers(x) for name, x in arrays.items()})

    def why_not_jax(self) -> str | None:
        """None where update_jax.py has all that the settings ask for, else what it lacks."""
        cfg, spec = self.settings, self.spec
        ours = {
            "estimator": "gumbel_st", "message_estimator": None, "target_action": "sample", "other_actions": "replay",
            "twin_critics": False, "actor_delay": 1, "share_actors": False, "independent_critics": False,
            "team_reward": False, "actor_lr_shares": {}, "listening_bonus": 0.0,
        }  # fmt: skip
        other = [name for name, value in ours.items() if getattr(cfg, name) != value]
        if other:
            return f"maddpg.{other[0]} = {getattr(cfg, other[0])}"
        return None if spec.fixed_agents and not spec.has_masks else "agents or choices that come and go"

    def difference(self, jax: Worker, scratch: Path) -> dict[str, dict[str, float]]:
        """How our parameters and JAX's differ after one update from the same state, batch and noise.

        Args:
            jax: a worker that has this case.
            scratch: a directory for what is passed.

        Returns:
            Network -> the largest difference, the number of parameters that differ by more than 1e-5, and of all.
        """
        learner, batch = copy.deepcopy(self.learner), copy.deepcopy(self.replay).sample(self.rows)
        given = {
            name: getattr(batch, name) for name in ("joint", "prev_obs", "first", "reward", "discount", "next_obs")
        }
        noise = copy.deepcopy(learner.noise)
        for name, count in (
            ("target", self.spec.num_agents),
            ("relabel", len(self.spec.senders)),
            ("own", self.spec.num_agents),
        ):
            given[name] = noise[name].gumbel(count, self.rows, self.spec.action_size)
        file, into = scratch / "check.npz", scratch / "after.npz"
        np.savez(file, **{name: _numbers(x) for name, x in given.items()})
        learner.update(batch, PROGRESS)
        jax.ask({"check": str(file), "into": str(into)})
        after = np.load(into)
        results = {}
        for name in NETWORKS:
            error = np.abs(after[name] - _numbers(getattr(learner, name).mlp.flat))
            results[name] = {"largest": float(error.max()), "beyond": int((error > 1e-5).sum()), "of": error.size}
        return results


class Worker:
    """A peer in a process and a virtual environment of its own, which answers one request at a time.

    Args:
        python: of that environment.
        script: beside this file.
    """

    def __init__(self, python: str, script: str) -> None:
        command = [python, str(Path(__file__).with_name(script))]
        environment = {**os.environ, **ONE_THREAD}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.script = script

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer.

        Raises:
            SystemExit: it failed; its words.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"its process ended with {self._process.wait()}"}
        if "error" in answer:
            raise SystemExit(f"{self.script}: {answer['error']}")
        return dict(answer)

    def contender(self, name: str) -> Contender:
        return lambda repeats: list(self.ask({"time": name, "repeats": repeats})["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def timed(function: Callable[[], object]) -> Contender:
    """A contender that calls `function`."""

    def seconds(repeats: int) -> list[float]:
        results = []
        for _ in range(repeats):
            start = time.process_time()
            function()
            results.append(time.process_time() - start)
        return results

    return seconds


def _numbers(x: Tensor) -> Any:
    return x.detach().to(torch.float32).contiguous().numpy()
