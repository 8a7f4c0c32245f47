"""The search over settings: what it draws, goes on with, gives up, and writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from benchmarks.learning import search
from benchmarks.learning.search_space import EVERY_TASK, WITH_MESSAGES, space
from marl.cli.parse import parse
from marl.errors import RunFailed, UserError

optuna = pytest.importorskip("optuna")
from benchmarks.learning import search_study  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONDITIONS = {"env": "a", "seed": 3, "prune_after": 2}
Study = Any


def opened(file: Path, **changes: Any) -> Study:
    return search_study.open_study(str(file), "a", CONDITIONS | changes)


def drawn(trial: Any) -> tuple[float, float, str]:
    if trial.user_attrs["draw"] == 0:
        return 0.5, 0.5, "b"
    return trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1), trial.suggest_categorical("z", ["a", "b"])


def value(trial: Any) -> float:
    x, y, z = drawn(trial)
    return x - y + (z == "a")


def go_on(study: Study, trials: int, value: Callable[[Any], float] = value) -> list[Any]:
    finished: list[Any] = []
    search_study.search(study, trials, value, finished.append)
    return finished


def by_draw(study: Study) -> dict[int, tuple[Any, Any]]:
    return {t.user_attrs["draw"]: (t.params, t.value) for t in study.trials if t.state in search_study.FINISHED}


def test_an_interrupted_search_draws_what_a_whole_one_does(tmp_path: Path) -> None:
    """Past the 10 random draws with which TPE begins, so that the history counts."""
    whole = opened(tmp_path / "whole.db")
    go_on(whole, 12)

    def interrupted(trial: Any) -> float:
        result = value(trial)
        if trial.number in (0, 11):
            raise KeyboardInterrupt
        return result

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go_on(opened(tmp_path / "cut.db"), 12, interrupted)
    last = opened(tmp_path / "cut.db")
    assert len(go_on(last, 12)) == 2  # of 12 that were begun before, two were cut off
    assert len(last.trials) == 14
    assert by_draw(last) == by_draw(whole) and sorted(by_draw(last)) == list(range(12))
    assert go_on(last, 12) == []  # enough
    params = [params for params, _ in by_draw(whole).values() if params]
    assert all(abs(one["x"] - one["y"]) > 1e-6 for one in params)  # every parameter has random numbers of its own
    other = opened(tmp_path / "other.db", seed=4)
    go_on(other, 2)
    assert other.trials[1].params["x"] != whole.trials[1].params["x"]


def test_a_killed_process_leaves_its_trial_to_the_next(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    study = opened(file)
    go_on(study, 2)
    with pytest.warns(UserWarning, match="Heartbeat"):
        killed = study.ask()
    killed.set_user_attr("draw", 2)
    wanted = drawn(killed)
    study._storage.record_heartbeat(killed._trial_id)
    go_on(opened(file), 3)
    assert sorted(by_draw(opened(file))) == [0, 1, 3]  # it may still be running
    with sqlite3.connect(file) as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")
    database.close()
    (again,) = go_on(opened(file), 4)
    assert again.user_attrs == {"draw": 2, "again": killed.number} and tuple(again.params.values()) == wanted
    search_study.begin_again(study, study.trials[killed.number])  # it was not dead after all, and breaks
    (further,) = go_on(opened(file), 5)
    assert further.user_attrs["draw"] == 4


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    """The second opens the file by itself and finishes its trials while one of the first is running."""
    file = tmp_path / "s.db"

    def meanwhile(trial: Any) -> float:
        if trial.number == 1:
            assert [one.number for one in go_on(opened(file), 4)] == [2, 3, 4]
        return value(trial)

    first = opened(file)
    assert [one.number for one in go_on(first, 4, meanwhile)] == [0, 1]
    assert sorted(by_draw(first)) == [0, 1, 2, 3, 4]  # one more than was asked for


def test_the_tables_are_made_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that begin together the others would break on tables that are half made."""
    storage = search_study._storage

    def alone(*words: Any) -> Any:
        with pytest.raises(Timeout):
            FileLock(tmp_path / "s.db.lock", timeout=0).acquire()
        return storage(*words)

    monkeypatch.setattr(search_study, "_storage", alone)
    opened(tmp_path / "s.db")
    FileLock(tmp_path / "s.db.lock", timeout=0).acquire().lock.release()


def test_a_trial_below_the_median_is_stopped(tmp_path: Path) -> None:
    level = {0: 3.0, 1: 1.0, 2: 1.9, 3: 2.1, 4: float("nan")}
    reached: dict[int, int] = {}

    def reporting(trial: Any) -> float:
        for step in (1, 2, 3):
            reached[trial.number] = step
            search_study.report(trial, step, level[trial.number])
        return level[trial.number]

    def broken(trial: Any) -> float:
        if trial.number == 4:
            raise RunFailed("NaN")
        return reporting(trial)

    finished = go_on(opened(tmp_path / "s.db"), 6, lambda t: broken(t) if t.number < 5 else 2.0)
    assert [one.state.name for one in finished] == ["COMPLETE"] * 2 + ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]
    assert reached == {0: 3, 1: 3, 2: 1, 3: 3}
    lines = [search.record(one, []) for one in finished]
    assert lines[2]["objective"] is None and lines[2]["parts"] == {"reported": [1.9]}
    assert lines[3]["objective"] == 2.1 and lines[4]["failed"] == "NaN"


def test_a_study_is_of_one_search(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    opened(file)
    with pytest.raises(UserError, match="begun with seed 3; give the same, or another --study"):
        opened(file, seed=4)
    (tmp_path / "no.db").write_text("no database" * 100)
    with pytest.raises(UserError, match="cannot be opened as a database of Optuna"):
        opened(tmp_path / "no.db")


def test_what_is_drawn_for_a_task() -> None:
    names = [one.name for one in space("simple_tag", ["--num_envs=4", "--maddpg.actor-lr", "1e-3"], {})]
    assert names == [one.name for one in EVERY_TASK if one.name != "--num-envs"]  # critics still need a step size
    speaking = [one.name for one in space("simple_crypto", ["--maddpg.actor-lr=1", "--maddpg.critic-lr=1"], {})]
    assert speaking == [one.name for one in (*EVERY_TASK[1:], *WITH_MESSAGES)]
    words = {one.name: one.words(one.values[0]) for one in EVERY_TASK}
    assert words["lr"] == ["--maddpg.actor-lr", "0.001", "--maddpg.critic-lr", "0.001"]
    assert words["--maddpg.hidden"] == ["--maddpg.hidden", "64", "64"]


def test_what_is_fixed_in_other_words_is_not_drawn_either(tmp_path: Path) -> None:
    """Guard: seen failing with the words of the flags compared: all three were drawn, and both step sizes."""
    file = tmp_path / "own.yaml"
    file.write_text("maddpg:\n  gamma: 0.9\n")
    flags = ["--maddpg.no-team-reward", "--config", str(file), "--maddpg.actor_lr", "0.001"]
    drawn = {one.name: one for one in space("simple_tag", flags, {})}
    assert set(drawn) == {one.name for one in EVERY_TASK} - {"--maddpg.team-reward", "--maddpg.gamma"}
    assert drawn["lr"].words(0.01) == ["--maddpg.critic-lr", "0.01"]


@pytest.mark.parametrize("env", ["collect_treasure", "simple_world_comm"])
def test_what_a_task_excludes_is_not_drawn(env: str) -> None:
    """Its factored critics need the team's reward. Guard: seen failing with trials that no run takes."""
    drawn = space(env, [], {})
    assert "--maddpg.team-reward" not in [one.name for one in drawn]
    for one in drawn:
        for value in one.values:
            parse(["--env", env, *one.words(value)])


def test_settings_that_no_run_takes_are_given_up(tmp_path: Path) -> None:
    """Guard: seen failing with the same settings begun anew, for ever."""

    def refused(trial: Any) -> float:
        if trial.number in (1, 2):
            raise UserError("these exclude each other")
        return value(trial)

    def no_good(trial: Any) -> float:
        raise UserError("no good")

    study = opened(tmp_path / "s.db")
    finished = go_on(study, 4, refused)
    assert [one.state.name for one in finished] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [search.record(one, []).get("failed") for one in finished[1:3]] == ["these exclude each other"] * 2
    with pytest.raises(UserError, match="no good"):
        go_on(opened(tmp_path / "other.db"), 4, no_good)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guard: seen failing with json's error, and with the next trial behind the half line."""
    assert searched(tmp_path, trials=1) == 0
    log = tmp_path / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + whole[:40])
    assert searched(tmp_path, trials=2) == 0
    assert "2 trials complete, 0 pruned" in capsys.readouterr().out
    assert log.read_text().startswith(whole + whole[:40] + "\n{")


def test_the_page_has_the_space() -> None:
    page = (ROOT / "docs" / "howto" / "sweep.md").read_text(encoding="utf-8")
    for one in (*EVERY_TASK, *WITH_MESSAGES):
        flags = ", ".join(f"`{flag}`" for flag in one.flags or (one.name,))
        low_to_high = isinstance(one.values, tuple)
        values = (" to " if low_to_high else ", ").join(
            f"{v:g}" if isinstance(v, float) else str(v) for v in one.values
        )
        assert f"| {flags} | {values}{', evenly in the logarithm' if low_to_high else ''} | {one.meaning}" in page


TINY = [
    "--replicas", "1", "--episodes", "6", "--prune-after", "2", "--seed", "7", "--",
    "--total-steps", "96", "--evaluation.episodes", "4", "--maddpg.warmup-steps", "16", "--maddpg.batch-size", "16",
    "--maddpg.hidden", "8", "8", "--num-envs", "4", "--maddpg.share-actors", "false",
]  # fmt: skip


def searched(folder: Path, trials: int = 2) -> int:
    places = ["--study", str(folder / "s.db"), "--log", str(folder / "log.jsonl")]
    return search.main(["--env", "simple", "--trials", str(trials), *places, *TINY])


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: one for key, one in line.items() if key not in ("seconds", "machine")} for line in lines]


def test_a_real_search_is_stopped_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searched(tmp_path / "whole") == 0
    stands = search.on_its_way
    seen = iter(range(8))

    def interrupted(*words: Any) -> float:
        if next(seen) == 7:  # in the middle of the second trial: five looks at each
            raise KeyboardInterrupt
        return stands(*words)

    monkeypatch.setattr(search, "on_its_way", interrupted)
    assert searched(tmp_path / "cut") == 130
    assert [line["trial"] for line in logged(tmp_path / "cut")] == [0]
    monkeypatch.setattr(search, "on_its_way", stands)
    capsys.readouterr()
    assert searched(tmp_path / "cut") == 0
    lines = logged(tmp_path / "cut")
    assert lines == logged(tmp_path / "whole") and [line["trial"] for line in lines] == [0, 1]
    assert lines[0]["settings"] == {} and "lr" in lines[1]["settings"]
    best = max(line["objective"] for line in lines)
    assert f"\n\n{best:6.3f}  seed 7 trial" in capsys.readouterr().out
    study = optuna.load_study(study_name="simple", storage=f"sqlite:///{tmp_path / 'cut' / 's.db'}")
    assert study.best_value == best
    assert [list(one.intermediate_values) for one in study.trials] == [[1, 2, 3, 4, 5], [1, 2], [1, 2, 3, 4, 5]]
    monkeypatch.setattr(search, "on_its_way", lambda *words: -1e9)
    assert searched(tmp_path / "cut", trials=3) == 0
    last = logged(tmp_path / "cut")[-1]
    assert last["trial"] == 2 and last["objective"] is None and last["parts"] == {"reported": [-1e9]}
    assert "2 trials complete, 1 pruned" in capsys.readouterr().out


def test_records_of_before_are_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["--env", "simple_crypto_v3"]) == 0
    shown = capsys.readouterr().out.split()
    records = (ROOT / "benchmarks" / "results" / "search" / "simple_crypto.jsonl").read_text().splitlines()
    assert float(shown[0]) == pytest.approx(max(json.loads(one)["objective"] for one in records), abs=1e-3)


def test_a_search_refuses_seeds_of_results_and_flags_that_no_run_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--env", "simple", "--trials", "1", "--study", str(tmp_path / "s.db")]
    for words, why in ((["--seed", "10000"], "serves reporting"), (["--", "--no-such-flag"], "no-such-flag")):
        with pytest.raises(SystemExit):
            search.main([*own, *words])
        assert why in capsys.readouterr().err
    assert not (tmp_path / "s.db").exists()
