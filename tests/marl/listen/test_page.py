"""The page to play on, without a browser: what it holds, and what it is refused for."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from docs.write_listen import PAGE
from envs.conditions import Condition
from envs.mpe import catalogue
from marl import Policy
from marl.config.fields import with_values
from marl.errors import UserError
from marl.listen import command, content
from marl.listen.page import listen_html
from marl.play.rollout import play

TASKS = ("simple_speaker_listener", "simple_reference")
SOURCE = 'pretrained </script><b>"&'


@pytest.fixture(scope="module", params=TASKS)
def pair(request: pytest.FixtureRequest) -> tuple[Policy, str]:
    policy = Policy.pretrained(request.param, 1)
    return policy, listen_html(policy, SOURCE, episodes=3, seed=7)


def told(html: str) -> dict[str, Any]:
    """The page's data."""
    found = re.findall(r'<script type="application/json" id="told">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    return dict(json.loads(found[0]))


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)


def test_it_stands_alone_and_escapes(pair: tuple[Policy, str]) -> None:
    html = pair[1]
    assert "<b>" not in html and html.count("</script>") == 2
    assert "{{" not in html and "default-src 'none'" in html
    outside = re.sub(r'"http://www\.w3\.org/2000/svg"', "", html)  # a name, nothing that is fetched
    assert not re.search(r"https?://|\bsrc=|\bhref=|url\(|@import|innerHTML|fetch\(", outside)
    assert told(html)["source"] == SOURCE and "Listen yourself · pretrained &lt;/script&gt;&lt;b&gt;&quot;&amp;" in html
    assert len(html.encode()) < 150_000


def test_it_starts_where_the_environment_does(pair: tuple[Policy, str]) -> None:
    policy, data = pair[0], told(pair[1])
    env = catalogue.parallel_env(policy.env_id)
    assert [one["seed"] for one in data["episodes"]] == [7, 8, 9]
    for one in data["episodes"]:
        observations, _ = env.reset(seed=one["seed"])
        world = env.unwrapped.world
        assert [entity.state.p_pos.tolist() for entity in world.entities] == [*one["agents"], *one["landmarks"]]
        for n, name in enumerate(policy.spec.agent_names):
            colour = {"speaker_0": slice(0, 3), "listener_0": None}.get(name, slice(8, 11))
            assert (one["knows"][n] is None) == (colour is None)
            if colour is not None:
                assert observations[name][colour] == pytest.approx(one["colours"][one["knows"][n]])
        if len(set(data["agents"][0]["heads"])) == 2:
            assert one["target"] == one["knows"][::-1]
        else:
            assert one["target"] == [None, one["knows"][0]]


def test_it_holds_the_actors(pair: tuple[Policy, str]) -> None:
    """Their greedy choices, computed from the page's numbers alone, on observations as large as those of the task."""
    policy, data = pair[0], told(pair[1])
    draws = np.random.default_rng(0)
    rows = {agent.name: draws.normal(size=(500, agent.obs_size)).astype(np.float32) for agent in policy.spec.agents}
    expected = policy.act(rows)
    for agent, given in zip(policy.spec.agents, data["agents"], strict=True):
        assert given["name"] == agent.name
        x, layers = rows[agent.name].astype(np.float64), given["actor"]["layers"]
        for k, layer in enumerate(layers):
            x = x @ numbers(layer["weight"]).reshape(x.shape[1], layer["width"]) + numbers(layer["bias"])
            if k < len(layers) - 1:
                scale = np.sqrt((x**2).mean(1, keepdims=True) + given["actor"]["eps"])
                x = np.maximum(x / scale if given["actor"]["normalised"] else x, 0)
        move = given["heads"].get("move", 0)
        result = x[:, move:].argmax(1) if "message" in given["heads"] else np.zeros(len(x), dtype=int)
        if move:
            result = x[:, :move].argmax(1) + move * result
        assert np.array_equal(result, expected[agent.name])


def test_scores_are_of_the_same_episodes(pair: tuple[Policy, str]) -> None:
    policy, scores = pair[0], told(pair[1])["scores"]
    assert scores["agents"] == pytest.approx(play(policy.env_id, policy, 3, 7).returns.mean(1))
    means = {name: np.mean(values) for name, values in scores.items()}
    assert means["still"] < means["silent"] < means["agents"] and means["silent"] < means["oracle"]


def test_the_dictionary_is_the_language(pair: tuple[Policy, str]) -> None:
    """A trained speaker's symbols mean one goal each, and every goal has one."""
    tables = told(pair[1])["dictionary"]
    assert set(tables) == {agent["name"] for agent in told(pair[1])["agents"] if "message" in agent["heads"]}
    for rows in tables.values():
        table = np.array(rows)
        assert table.sum() == 100 * 24 and (table.max(0) > 0).all()
        assert ((table > 0).sum(1) <= 1).all()


def test_the_published_page_is_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "page.html"
    assert command.main([TASKS[0], "--pretrained", "--out", str(out)]) == 0
    assert f"Listen yourself: {out}" in capsys.readouterr().out
    pages = [path.read_text(encoding="utf-8") for path in (out, PAGE)]
    data = [told(page) for page in pages]
    assert pages[0].replace(_json_of(pages[0]), "") == pages[1].replace(_json_of(pages[1]), ""), (
        "run: python -m docs.write_listen"
    )
    scores = [one.pop("scores") for one in data]
    assert data[0] == data[1]
    for name in scores[0]:
        assert scores[0][name] == pytest.approx(scores[1][name])


def _json_of(page: str) -> str:
    return page.partition('id="told">')[2].partition("</script>")[0]


# ------------------------------------------------------------------ refusals
def test_tasks_and_actors_without_a_page_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["simple_crypto", "--pretrained"]) == 2
    assert "there is no page for simple_crypto" in capsys.readouterr().err
    policy = Policy.pretrained(TASKS[0])
    with pytest.raises(UserError, match="--episodes must be at least 1 and --seed at least 0, got 0 and 3"):
        content.content(policy, "", 0, 3)
    assert content.plays(policy.config)
    for setting in ({"maddpg.recurrent": True}, {"maddpg.frames": 2}):
        policy.config = with_values(policy.config, setting)
        assert not content.plays(policy.config)
        with pytest.raises(UserError, match="these remember earlier ones"):
            content.content(policy, "", 1, 3)
        policy.config = with_values(policy.config, {"maddpg.recurrent": False, "maddpg.frames": 1})


@pytest.mark.parametrize(("channel", "arrives"), [("none", False), ("shuffled", False), ("rial", True)])
def test_channels_on_which_something_else_arrives_are_refused(channel: str, arrives: bool) -> None:
    """The page delivers what is said. Guard: seen passing for a listener that had never heard anything."""
    policy = Policy.pretrained(TASKS[0])
    policy.config = with_values(policy.config, {"channel": channel})
    policy.condition = Condition.of(channel, 0.0)
    assert content.plays(policy.config) == arrives
    if not arrives:
        with pytest.raises(UserError, match=f"these agents were trained with --channel {channel}"):
            content.content(policy, "", 1, 3)


def test_the_replica_of_the_pictures_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(run: Path, replica: int) -> Policy:
        asked.append(replica)
        return Policy.pretrained(TASKS[0])

    monkeypatch.setattr(Policy, "load", load)
    monkeypatch.setattr("marl.listen.page.content", lambda *arguments: {"asked": arguments[1]})
    from marl.listen import write_listen

    for text in ('{"shown": 2}', '{"shown": ', "[]", '{"shown": null}'):
        (tmp_path / "communication.json").write_text(text)
        page = write_listen(tmp_path)
    write_listen(tmp_path, replica=1)
    assert page == tmp_path / "listen.html" and asked == [2, 0, 0, 0, 1]
    assert told(page.read_text())["asked"] == f"{tmp_path.name}, replica 1"


def test_float32_numbers_come_back_exactly() -> None:
    values = torch.randn(7, 3).numpy()
    assert np.array_equal(numbers(content._packed(values)), values.ravel().astype(np.float64))
