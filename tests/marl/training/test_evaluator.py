"""Evaluation during training: greedy, on seeds of its own.

Guard: seen failing with policies that sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import assert_learned, begun, config, differences, records, resumed, state, whole

import envs
from marl.evaluate.returns import evaluate
from marl.learner.maddpg import MADDPG
from marl.parallel.division import Division
from marl.parallel.ranks import Ranks
from marl.play.policy import Policy
from marl.training import evaluator as evaluator_module
from marl.training.evaluator import Evaluator


@pytest.mark.parametrize("backend", ["torch", "pettingzoo"])
def test_evaluation_during_training_is_greedy_on_seeds_of_its_own(tmp_path: Path, backend: str) -> None:
    """A policy that hardly prefers a move is played as one that insists on it; a sampled one would wander about."""
    settings = {"env": "simple", "backend": backend, "evaluation.episodes": 4, "evaluation.seed": 70}
    chosen = config(tmp_path, settings)
    env = envs.make("simple", num_envs=1)
    learner = MADDPG(env.spec, chosen.maddpg, 0)
    evaluator = Evaluator(chosen, env, learner, Division(Ranks(), 1))
    weight, bias = learner.actor.mlp.layers()[-1]

    def returns(move: int, preference: float) -> list[float]:
        with torch.no_grad():
            weight.zero_(), bias.zero_()
            bias[..., move] = preference
        (replica,) = evaluator.during_training().replicas
        return [replica.mean_return]

    hardly, surely, elsewhere = returns(0, 1e-3), returns(0, 1e3), returns(1, 1e-3)
    assert hardly == surely and hardly != elsewhere
    bias.detach()[..., 1], bias.detach()[..., 0] = 0.0, 1e3
    insistent = Policy(env.spec, chosen, learner.actor.mlp.flat[0], greedy=False)
    expected = evaluate([insistent], "simple", episodes=4, seed=10_000_070, mode="sampled", backend=backend)
    assert expected.replicas[0].mean_return == pytest.approx(hardly[0], abs=1e-5)


@pytest.mark.parametrize("name", ["simple", "toy_envs:MaskedInfo"])
def test_only_a_function_s_environment_passes_on_how_it_was_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPE's are known by name; what was found out about another (masks, heads) must not be found out again."""
    chosen = config(tmp_path, {"env": name, "num_envs": 4})
    env = envs.make(name, num_envs=4, backend="pettingzoo")
    seen: dict[str, Any] = {}

    def watched(policies: list[Policy], env_id: str, **given: Any) -> None:
        seen.update(given, env_id=env_id)

    monkeypatch.setattr(evaluator_module, "evaluate", watched)
    learner = MADDPG(env.spec, chosen.maddpg, 0)
    Evaluator(chosen, env, learner, Division(Ranks(), 1)).evaluated(3, 11, "pettingzoo", 32)
    assert seen["spec"] == (None if name == "simple" else env.spec.single())
    assert (seen["env_id"], seen["episodes"], seen["seed"], seen["backend"]) == (name, 3, 11, "pettingzoo")


@pytest.mark.parametrize(("share", "steps"), [(0.25, 1), (2.0, 8), (0.0, 0)])
def test_a_small_share_is_no_unlimited_one(
    tmp_path: Path, share: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 steps that were trained since the last evaluation; a budget of 0 has no limit.

    Guard: seen failing with a quarter of 2 steps, rounded down to the 0 that lifts the limit.
    """
    name = "toy_envs:MaskedInfo"
    settings = {"env": name, "num_envs": 2, "evaluation.every": 2 if share < 1 else 4, "evaluation.share": share}
    seen: dict[str, Any] = {}
    monkeypatch.setattr(evaluator_module, "evaluate", lambda *_, **given: seen.update(given))
    env, chosen = envs.make(name, num_envs=2, backend="pettingzoo"), config(tmp_path, settings)
    Evaluator(chosen, env, MADDPG(env.spec, chosen.maddpg, 0), Division(Ranks(), 1)).during_training()
    assert seen["budget"].steps == steps


def test_the_curve_starts_at_the_start_and_changes_nothing(tmp_path: Path) -> None:
    """About thirty evaluations, the first before anything was learned; the training is the same without any.

    Guard: seen failing with an evaluation that draws from the learner's noise.
    """
    few = {"evaluation.episodes": 2, "total_steps": 30_000, "num_envs": 100, "maddpg.updates_per_step": 0.002}
    curve, silent = (
        whole(tmp_path / name, {**few, "evaluation.every": every}) for name, every in (("curve", None), ("none", 0))
    )
    steps = [line["step"] for line in records(curve) if "evaluation/return" in line]
    assert steps == list(range(0, 30_001, 1000))
    assert [line["step"] for line in records(silent) if "evaluation/return" in line] == [30_000]
    assert_learned(curve)
    parts = [state(run) for run in (curve, silent)]
    for one in parts:
        del one["progress"]["success"]
    assert not differences(*parts)


def test_short_runs_are_evaluated_every_thousand_steps(tmp_path: Path) -> None:
    intervals = {25_000: 1000, 200_000: 6667, 800_000: 26_667}
    assert {n: config(tmp_path, {"total_steps": n, "evaluation.every": None}).evaluation_every for n in intervals} == (
        intervals
    )
    own = {"env": "my_module:make", "total_steps": 25_000, "evaluation.every": None}
    assert config(tmp_path, own).evaluation_every == 10_000


def test_a_resumed_run_does_not_start_its_curve_again(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", {"evaluation.every": None, "evaluation.episodes": 2}, rounds=0)
    assert [line["step"] for line in records(run)] == [0]
    resumed(run)
    assert [line["step"] for line in records(run)].count(0) == 1
