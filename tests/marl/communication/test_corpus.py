"""The messages of a run in a file: read back, and compared with what was recorded."""

from __future__ import annotations

import csv
import hashlib
import json
import re

import numpy as np
import pytest
from parts_players import Naming

from marl.communication import corpus, zero_shot
from marl.communication.command import main
from marl.play.rollout import play

GAME = {"attributes": [3, 3], "held_out": 3, "num_candidates": 3, "num_symbols": 4}


class Policy:
    """Two replicas: a code with parts, and one word for everything."""

    @staticmethod
    def load(run_dir, replica=0, greedy=True, checkpoint=None):
        return Naming(GAME, constant=replica == 1)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "Policy", Policy)
    monkeypatch.setattr(zero_shot, "Policy", Policy)
    return tmp_path


def recorded(replica, episodes=6):
    player = Policy.load("", replica)
    return player.spec, play(player.env_id, player, episodes, 1_000_000, env_args=GAME, record=True)


def corpus_of(run_dir, name, *words):
    path = run_dir / name
    assert main([str(run_dir), "--corpus", str(path), "--episodes", "6", *words]) == 0
    return path.read_text().splitlines()


def test_jsonl_holds_what_was_recorded(run_dir):
    rows = [json.loads(line) for line in corpus_of(run_dir, "said.jsonl")]
    assert len(rows) == 2 * 6 * 2  # replicas, episodes, steps
    assert all(list(row) == list(rows[0]) for row in rows), "one schema, as table readers want it"
    for replica in range(2):
        _, played = recorded(replica)
        for row in (row for row in rows if row["replica"] == replica):
            seen = played.obs["speaker_0"][row["step"], row["episode"]]
            assert row["symbols"] == played.actions[row["step"], row["episode"], 0].tolist()
            assert row["meaning"] == [seen[:3].argmax(), seen[3:].argmax()]
            assert row["observation"] == hashlib.blake2b(seen.astype("<f4").tobytes(), digest_size=8).hexdigest()
            assert (row["sender"], row["receivers"]) == ("speaker_0", ["listener_0"])
    assert [(r["replica"], r["episode"], r["step"]) for r in rows] == sorted(
        (r["replica"], r["episode"], r["step"]) for r in rows
    )


def test_csv_holds_the_same(run_dir):
    rows = [json.loads(line) for line in corpus_of(run_dir, "said.jsonl", "--replicas", "0")]
    table = list(csv.DictReader(corpus_of(run_dir, "said.csv", "--replicas", "0")))
    assert [list(row) for row in table] == [list(row) for row in rows]
    for plain, row in zip(table, rows, strict=True):
        for name, value in row.items():
            assert plain[name] == (" ".join(map(str, value)) if isinstance(value, list) else str(value))


def test_lists_of_tokens(run_dir):
    """Places have vocabularies of their own: with 4 symbols the second place's are 4 to 7."""
    _, played = recorded(0)
    said = [json.loads(line) for line in corpus_of(run_dir, "a.jsonl", "--corpus-layout", "utterances")]
    spoken = [json.loads(line) for line in corpus_of(run_dir, "b.jsonl", "--corpus-layout", "episodes")]
    assert len(said) == 24 and len(spoken) == 12
    for episode in range(6):
        tokens = [[int(a), 4 + int(b)] for a, b in played.actions[:, episode, 0]]
        assert said[2 * episode : 2 * episode + 2] == tokens
        assert spoken[episode] == [token for pair in tokens for token in pair]
    assert all(isinstance(token, int) for row in said for token in row)


def test_a_goal_without_parts_and_an_unknown_one():
    spec, played = recorded(0, 2)
    first = next(corpus.messages(spec, played, meaning=lambda obs: obs[..., 0].astype(np.int64)))
    assert first.meaning == (int(played.obs["speaker_0"][0, 0, 0]),)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--corpus", "said.txt"], "ends in .jsonl or .csv"),
        (["--corpus", "said.csv", "--corpus-layout", "episodes"], "needs --corpus with a name that ends in .jsonl"),
        (["--corpus", "nowhere/said.csv"], "there is no such directory"),
        (["--pretrained", "--zero-shot"], "go with a run directory"),
        (["--corpus-layout", "episodes"], "--corpus-layout needs --corpus"),
    ],
)
def test_what_cannot_be_written_is_told(run_dir, words, text, capsys):
    assert main([str(run_dir), *words]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "unread"),
    [
        (["--zero-shot", "--corpus", "said.jsonl"], "--zero-shot .* without --corpus:"),
        (["--zero-shot", "--meaning", "m:f", "--with", "other"], "--zero-shot .* without --with, --meaning:"),
        (["--zero-shot", "--interventions", "mute", "--out", "x"], "--zero-shot .* without --interventions, --out:"),
        (["--corpus", "said.jsonl", "--json", "x.json"], "--corpus .* without --json:"),
        (
            ["--corpus", "said.jsonl", "--no-figures", "--cross-episodes", "9"],
            "without --cross-episodes, --no-figures:",
        ),
    ],
)
def test_options_that_would_change_nothing_are_refused(run_dir, words, unread, capsys):
    """Guard: seen failing when they were ignored without a word, so that `--zero-shot --corpus` wrote no corpus."""
    assert main([str(run_dir), *words]) == 2
    assert re.search(unread, capsys.readouterr().err)
    assert list(run_dir.iterdir()) == []


# ------------------------------------------------------------------ goals that were held out
def test_zero_shot_of_a_code_with_parts_and_of_a_constant(run_dir, capsys):
    assert main([str(run_dir), "--zero-shot", "--episodes", "60", "--replicas", "0"]) == 0
    found = zero_shot.ZeroShot.from_json(json.loads((run_dir / "zero_shot.json").read_text()))
    assert found.chance == pytest.approx(1 / 3)
    assert (found.training.combinations, found.held_out.combinations) == (6, 3)
    assert found.training.replicas == found.held_out.replicas == (1.0,)
    assert found.held_out.together.low == pytest.approx(1 / (1 + 1.959964**2 / 60)), "Wilson's of 60 of 60"
    assert "100% of the gain over chance remains" in capsys.readouterr().out
    both = zero_shot.zero_shot(run_dir, episodes=60)
    assert both.held_out.together.mean == pytest.approx(np.mean(both.held_out.replicas))
    assert both.held_out.together.low <= both.held_out.together.mean <= both.held_out.together.high
    assert "not understood better than chance" not in zero_shot.words(both)


def test_zero_shot_of_a_listener_that_knows_only_training_goals(run_dir, monkeypatch):
    known = Naming({**GAME, "goals": "training"}, known_only=True)
    monkeypatch.setattr(zero_shot.Policy, "load", lambda *args, **more: known)
    found = zero_shot.zero_shot(run_dir, episodes=150, seed=0, replicas=[0])
    assert found.training.together.mean == 1.0
    assert found.held_out.together.low < 1 / 3 < found.held_out.together.high
    assert "not understood better than chance" in zero_shot.words(found)


def test_zero_shot_needs_goals_that_were_held_out(run_dir, monkeypatch, capsys):
    monkeypatch.setitem(GAME, "held_out", 0)
    assert main([str(run_dir), "--zero-shot"]) == 2
    assert "holds no goals out" in capsys.readouterr().err
