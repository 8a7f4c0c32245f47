"""Trained sides against others than their own opponents: orientation, verdicts, frozen partners, the two commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from whole_runs import whole

import envs
from benchmarks.competition import exploited, matches
from benchmarks.competition.duels import SCRIPTS, Arena, against_scripts, compared, tournament
from benchmarks.competition.fresh_eve import fresh_eves, guaranteed
from benchmarks.learning import search
from envs.mpe import catalogue
from marl.config.schema import Config, MADDPGConfig
from marl.errors import UserError
from marl.learner.networks.actor_critic import Actor
from marl.play.policy import Policy
from marl.scripted.by_name import TABLE, scripted
from marl.scripted.measured import MEASURED

TINY = ["--total-steps", "240", "--num-envs", "2", "--maddpg.hidden", "8", "--maddpg.batch-size", "8",
        "--maddpg.warmup-steps", "50", "--evaluation.every", "0", "--logging.progress", "false"]  # fmt: skip


def arena_of(env: str, episodes: int = 200) -> Arena:
    return Arena(env, episodes, seed=11)


def test_every_listed_script_is_one_of_its_side() -> None:
    for env, by_side in SCRIPTS.items():
        arena = arena_of(env)
        assert set(by_side) == set(arena.sides)
        for side, names in by_side.items():
            assert names[-1] == "random"
            for name in names[:-1]:
                assert set(arena.sides[side]) <= set(TABLE[arena.spec.id][name].agents(arena.spec))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the scripts that plan, which take seconds a duel."""
    for env, by_side in SCRIPTS.items():
        few = {side: tuple(name for name in names if name != "planned") for side, names in by_side.items()}
        monkeypatch.setitem(SCRIPTS, env, few)


# ------------------------------------------------------------------ the tournament
def test_scripts_in_the_place_of_replicas_earn_what_they_are_known_to(quick: None) -> None:
    """Rows are the first side and columns the second: each cell is the known pairing of its row and its column."""
    arena = arena_of("simple_push", 300)
    players = [scripted("simple_push", name, spec=arena.spec) for name in ("block+direct", "follow+random")]
    played = tournament(arena, players)
    assert played.names["adversaries"] == ["0", "1", "midpoint", "follow", "guess", "block", "random"]
    assert played.names["good"] == ["0", "1", "direct", "random"]
    for side, names in played.names.items():
        rows = played.seen_by(side)
        assert played.returns[side].shape == (7, 4, 300) and len(rows) == len(names)
        mine, theirs = names.index({"adversaries": "block", "good": "direct"}[side]), slice(0, -1)
        assert np.array_equal(rows[0, theirs][:1], rows[mine, theirs][:1]), "replica 0 is the first pair of scripts"
    follow = played.names["adversaries"].index("follow")
    assert np.array_equal(played.returns["good"][1, 0], played.returns["good"][follow, 2])
    checked = 0
    for name, known in MEASURED["simple_push_v3"].items():
        mine, _, theirs = name.partition("+")
        if theirs != "direct":
            continue
        for side, (mean, se) in known.items():
            here = played.returns[side][played.names["adversaries"].index(mine), 2]
            error = np.hypot(here.std() / np.sqrt(len(here)), se)
            assert abs(here.mean() - mean) < 4.5 * error, (name, side)
            checked += 1
    assert checked == 8, "both sides of the four pairings with direct"
    table = played.table()
    assert table["adversaries"][follow][0] < table["adversaries"][0][0] - 0.5, "following is worse than blocking"
    assert table["good"][follow][0] > table["good"][follow][1] + 10, "a column is a member of the second side"


def test_rows_hold_a_script_to_its_own_pairing() -> None:
    """Level with itself, and with its own name as the one to beat where it is the best."""
    arena = arena_of("simple_tag", 60)
    rows = against_scripts(tournament(arena, [scripted("simple_tag", "surround+flee", spec=arena.spec)] * 2))
    result = {(row["side"], row["opponent"]): row for row in rows}
    assert list(result) == [
        ("adversaries", "flee"), ("adversaries", "random"), ("good", "chase"), ("good", "surround"), ("good", "random"),
    ]  # fmt: skip
    for opponent in ("chase", "surround"):
        row = result["good", opponent]
        assert row["best"] == "flee" and row["score"] == 1.0
        assert row["scripts"]["flee"]["verdict"] == "level" and row["scripts"]["flee"]["beating"] == 0
        assert row["scripts"]["flee"]["difference"] == {"mean": 0.0, "se": 0.0}
        assert row["scripts"]["random"]["verdict"] == "beaten" and row["scripts"]["random"]["beating"] == 2
    caught = result["adversaries", "flee"]
    assert caught["replicas"][0] == caught["scripts"]["surround"]["mean"]
    assert caught["scripts"]["surround"]["verdict"] == "level" and caught["scripts"]["random"]["verdict"] == "beaten"


def test_a_script_that_is_told_more_is_an_opponent_but_not_the_one_to_beat(quick: None) -> None:
    arena = arena_of("simple_adversary", 60)
    good, blind = (scripted("simple_adversary", name, spec=arena.spec) for name in ("midpoint+cover", "follow+direct"))
    rows = against_scripts(tournament(arena, [good, blind]))
    output = [row for row in rows if row["informed"]]
    assert [(row["side"], row["opponent"]) for row in output] == [("good", "omniscient")]
    against_direct = next(row for row in rows if row["opponent"] == "direct")
    assert against_direct["best"] == "follow"
    assert against_direct["scripts"]["omniscient"]["mean"] > against_direct["scripts"]["follow"]["mean"]


@pytest.mark.parametrize(
    ("shift", "verdict", "beating"), [(3.0, "beaten", 2), (0.0, "level", 1), (-3.0, "not beaten", 0)]
)
def test_verdicts(shift: float, verdict: str, beating: int) -> None:
    rng = np.random.default_rng(0)
    script = rng.normal(5.0, 2.0, 400)
    trained = script + shift + np.array([[1.0], [-1.0]]) + rng.normal(0.0, 0.1, (2, 400))
    row = compared(trained, {"good": script, "random": script - 10, "told": script + 50}, ["good", "random"])
    beside = row["scripts"]["good"]
    assert (row["best"], beside["verdict"], beside["beating"]) == ("good", verdict, beating)
    assert beside["difference"]["mean"] == pytest.approx(shift, abs=0.02)
    assert beside["difference"]["se"] == pytest.approx(1.0, rel=0.02), "the spread of two replicas, 2 apart"
    assert row["scripts"]["told"]["verdict"] == "not beaten" and row["scripts"]["random"]["verdict"] == "beaten"
    assert row["score"] == pytest.approx(1 + shift / 10, abs=0.01)


def test_the_error_holds_the_spread_of_episodes_that_replicas_share() -> None:
    episodes = np.random.default_rng(1).normal(0.0, 2.0, 400)
    row = compared(np.stack([episodes, episodes]), {"random": np.zeros(400)}, ["random"])
    assert row["trained"]["se"] == pytest.approx(2.0 / 20, rel=0.15)


# ------------------------------------------------------------------ crypto
def random_policy(env: str, seed: int) -> Policy:
    """Untrained actors with loud outputs."""
    spec = catalogue.describe(env, catalogue.parallel_env(env))
    config = Config(env=env, maddpg=MADDPGConfig(hidden=(8,)))
    size = Actor(spec, (8,), True, envs.streams.Stream(0, "shape", (0,))).mlp.flat.shape[1:]
    return Policy(spec, config, torch.randn(size, generator=torch.Generator().manual_seed(seed)))


class Answers:
    """Alice and Bob of a code: `say[secret][key]`, `read[key][symbol]`; Bob guesses 0 until he hears, Eve always."""

    def __init__(self, say: list[list[int]], read: list[list[int]]) -> None:
        self.say, self.read = np.array(say), np.array(read)

    def reset(self, num_envs: int) -> None: ...

    def act(self, observations, masks=None):
        alice, bob = observations["alice_0"], observations["bob_0"]
        guess = self.read[bob[:, :2].argmax(1), bob[:, 4:8].argmax(1)] * bob[:, 4:8].any(1)
        silent = np.zeros(len(bob), dtype=np.int64)
        return {
            "eve_0": silent,
            "alice_0": self.say[alice[:, :2].argmax(1), alice[:, 4:6].argmax(1)],
            "bob_0": guess.astype(np.int64),
        }


XOR = Answers([[0, 1], [1, 0]], [[0, 1, 0, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize(
    ("pair", "kept"),
    [
        (XOR, 24.0),
        (Answers([[0, 0], [1, 1]], [[0, 1, 0, 0]] * 2), 0.0),  # plain text
        (Answers([[0, 1], [1, 2]], [[0, 1, 0, 0], [0, 0, 1, 0]]), 12.0),  # half of the symbols tell Eve
        (Answers([[2, 2], [2, 2]], [[0, 0, 0, 0]] * 2), 0.0),  # nobody knows
        (Answers([[0, 1], [1, 0]], [[0, 1, 0, 0]] * 2), 0.0),  # Bob forgets the key
        (Answers([[0, 0], [1, 1]], [[1, 0, 0, 0]] * 2), -48.0),
    ],
)  # fmt: skip
def test_the_best_eve_by_hand(pair: Answers, kept: float) -> None:
    assert guaranteed(pair) == pytest.approx(kept)


class Mixing(Policy):
    """The xor with two symbols for each of its two; Alice takes the first with chance `first`, the second with a secret
    of 1."""

    greedy = False

    def __init__(self, first: float) -> None:
        self.first = first

    def probabilities(self, observations, masks=None):
        secret, key = (observations["alice_0"][:, start : start + 2].argmax(1) for start in (0, 4))
        said, rows = np.zeros((len(secret), 4)), np.arange(len(secret))
        said[rows, secret ^ key] = np.where(secret == 0, self.first, 1 - self.first)
        said[rows, (secret ^ key) + 2] = np.where(secret == 0, 1 - self.first, self.first)
        bob = observations["bob_0"]
        read = np.eye(4)[(bob[:, 4:8].argmax(1) % 2) ^ bob[:, :2].argmax(1)] * bob[:, 4:8].any(1)[:, None]
        read[:, 0] += ~bob[:, 4:8].any(1)
        return {"eve_0": said[:, None], "bob_0": read[:, None], "alice_0": said[:, None]}


@pytest.mark.parametrize(("first", "kept"), [(0.5, 24.0), (0.75, 12.0), (1.0, 0.0)])
def test_the_best_eve_of_sampled_policies_by_hand(first: float, kept: float) -> None:
    """Each symbol stands for one secret with chance max(first, 1 - first), whatever Bob reads with the key."""
    assert guaranteed(Mixing(first)) == pytest.approx(kept)


def test_the_scripted_ciphers_keep_what_they_earn_against_an_eve_who_repeats() -> None:
    arena = arena_of("simple_crypto", 400)
    for name in ("oracle", "plain"):
        player = scripted("simple_crypto", name, spec=arena.spec)
        earned = arena.scripted("oracle", name)["alice and bob"]
        assert abs(guaranteed(player) - earned.mean()) < 4 * earned.std() / 20 + 0.01


def test_what_eve_could_learn_of_a_pair_with_memory_is_not_told(tmp_path: Path) -> None:
    run = whole(tmp_path / "run", {"env": "simple_crypto", "total_steps": 8, "maddpg.frames": 2})
    with pytest.raises(UserError, match=r"policies that see one observation"):
        fresh_eves(arena_of("simple_crypto", 4), run, seed=5, greedy=True)


# ------------------------------------------------------------------ the commands
def command(monkeypatch: pytest.MonkeyPatch, module: object, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["program", *words])
    return module.main()  # type: ignore[attr-defined, no-any-return]


def test_competition_of_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["--env", "simple_crypto", "--replicas", "2", "--episodes", "20", "--out", str(out)]
    assert command(monkeypatch, matches, *words, "--keep", str(run), "--", *TINY) == 0
    printed = capsys.readouterr().out
    printed = printed[printed.index("## simple_crypto") :]
    record = json.loads((out / "simple_crypto.json").read_text())
    output = "python -m benchmarks.competition --env simple_crypto --replicas 2 --episodes 20 -- --total-steps 240"
    assert record["command"].startswith(output) and str(tmp_path) not in json.dumps(record)
    assert (record["replicas"], record["steps"], record["seed"], record["backend"]) == (2, 240, 0, "torch")
    assert record["purpose"] == "tuning"
    assert np.shape(record["returns"]["eve"]) == (4, 5) and len(record["against"]) == 5
    assert len(record["fresh_eves"]["with a fresh eve"]) == 2 and record["mode"] == "greedy"
    assert record["fresh_eves"]["guaranteed"] == record["fresh_eves"]["guaranteed, greedy"]
    assert printed.strip() in (out / "README.md").read_text() and (out / "simple_crypto.png").stat().st_size > 10_000
    for row in record["against"]:
        assert f"| {row['side']} | {row['opponent']} |" in printed
    words = ["--env", "simple_crypto", "--episodes", "20", "--exploitability", "--out", str(out)]
    assert command(monkeypatch, matches, *words) == 0
    assert "### simple_crypto: exploitability" in capsys.readouterr().out
    assert "### simple_crypto: exploitability" in (out / "README.md").read_text()
    found = json.loads((out / "simple_crypto_exploitability.json").read_text())
    assert (found["seed"], found["replicas"], found["steps"], found["mode"]) == (0, 2, 240, "greedy")
    assert found["command"] == "python -m benchmarks.competition --env simple_crypto --episodes 20 --exploitability"
    for team in found["teams"]:  # the same teams in the same episodes
        assert team["own"] == [record["returns"][team["team"]][r][r] for r in range(2)]
        assert team["learners"] == record["sides"]["eve" if team["team"] != "eve" else "alice and bob"]
    monkeypatch.setattr(
        exploited, "measured", lambda options, flags: {**found, "variant": options.variant, "told": flags}
    )
    assert command(monkeypatch, matches, *words, "--variant", "pool", "--", "--opponents", "pool") == 0
    assert "### simple_crypto: exploitability, pool" in capsys.readouterr().out
    variant = json.loads((out / "simple_crypto_pool_exploitability.json").read_text())
    assert variant["told"] == [*TINY, "--opponents", "pool"] and variant["variant"] == "pool"
    again = tmp_path / "again"
    words = ["--env", "simple_crypto", "--episodes", "20", "--run", str(run), "--out", str(again)]
    assert command(monkeypatch, matches, *words) == 0
    replayed = json.loads((again / "simple_crypto.json").read_text())
    assert replayed["returns"] == record["returns"] and replayed["fresh_eves"] == record["fresh_eves"]
    assert replayed["command"] == "python -m benchmarks.competition --env simple_crypto --episodes 20 --run RUN"
    assert command(monkeypatch, matches, *words, "--sampled") == 0
    sampled = json.loads((again / "simple_crypto.json").read_text())
    assert sampled["mode"] == "sampled" and sampled["returns"] != record["returns"]
    assert sampled["fresh_eves"]["guaranteed, greedy"] == record["fresh_eves"]["guaranteed"]
    asked: dict[str, object] = {}
    monkeypatch.setattr(exploited, "measured", lambda options, flags: asked.update(vars(options)) or found)
    words = ["--env", "simple_crypto", "--episodes", "7", "--exploitability", "--run", str(run), "--out", str(again)]
    for seed, as_the_record in ((0, (True, 20)), (5, (False, 7))):  # of the very run, and of another
        (again / "simple_crypto.json").write_text(json.dumps(sampled | {"seed": seed}))
        assert command(monkeypatch, matches, *words) == 0
        assert (asked["sampled"], asked["episodes"]) == as_the_record
    with pytest.raises(UserError, match=r"of a run that this command did not train; give it with --run RUN"):
        command(monkeypatch, matches, "--env", "simple_crypto", "--exploitability", "--out", str(again))


def test_a_run_with_arguments_or_of_another_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its duels would be in the task as it is. Guard: seen playing 25 steps with a run of 5."""
    short = {"env": "simple_push", "env_args": {"max_cycles": 5}, "total_steps": 8}
    for settings in (short, {"env": "simple_tag", "total_steps": 8}):
        run = whole(tmp_path / str(settings["env"]), settings)
        words = ["--env", "simple_push", "--run", str(run), "--out", str(tmp_path)]
        for further in ([], ["--exploitability"]):
            with pytest.raises(UserError, match=r"expected a run of --env simple_push"):
                command(monkeypatch, matches, *words, *further)


def test_memory_is_refused_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--env", "simple_crypto", "--out", str(tmp_path), "--keep", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"policies that see one observation"):
        command(monkeypatch, matches, *words, "--", "--maddpg.frames", "2", "--total-steps", "16")
    assert not (tmp_path / "run").exists()


def test_published_and_tuning_seeds_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for seed in ("1000", "10000"):
        with pytest.raises(SystemExit) as refused:
            command(monkeypatch, search, "--env", "simple_tag", "--trials", "1", "--seed", seed)
        assert refused.value.code == 2 and "For tuning take one of 0 to 999" in capsys.readouterr().err
    with pytest.raises(UserError, match="seed 10000 serves reporting"):
        command(monkeypatch, matches, "--env", "simple_tag", "--seed", "10000", "--out", str(tmp_path))


def test_a_competitive_policy_is_judged_against_scripts_side_by_side() -> None:
    judged = search.objective("simple_push", [Policy.pretrained("simple_push")], 10, {})
    sides = [np.mean(list(scores.values())) for scores in judged["parts"].values()]
    assert len(sides) == 2 and judged["objective"] == pytest.approx(np.mean(sides))
    assert 0.5 < judged["objective"] < 2.0, "a trained policy is far above random play"


def test_the_objective_is_fair_to_both_sides_and_bounds_a_lucky_opponent() -> None:
    rows = [
        {"side": "a", "opponent": "x", "score": 0.5},
        {"side": "a", "opponent": "y", "score": 30.0},  # best and random alike: the ratio says nothing
        {"side": "b", "opponent": "x", "score": -7.0},
        {"side": "b", "opponent": "y", "score": None},
    ]
    assert search.combined(rows)["objective"] == pytest.approx(((0.5 + 2.0) / 2 - 1.0) / 2)
