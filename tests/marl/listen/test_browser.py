"""The page in a browser: the same episodes as mpe2, and a reader who plays as the trained actor earns its score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.browser import Browser, installed
from envs.mpe import catalogue
from marl import Policy
from marl.listen.page import listen_html

EPISODES, SEED = 3, 19
KEYS = (" ", "ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp")  # of the moves 0 to 4
PROGRAM = installed()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium is installed (on Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as one:
        yield one


@pytest.fixture(scope="module", params=["simple_speaker_listener", "simple_reference"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    policy = Policy.pretrained(request.param)
    path = tmp_path_factory.mktemp("page") / "listen.html"
    path.write_text(listen_html(policy, "here", EPISODES, SEED), encoding="utf-8")
    return policy, path


def in_mpe2(policy: Policy) -> list[dict[str, Any]]:
    """Positions [26, agents, 2], choices [25][agents] and return of the episodes, as mpe2 and the policy play them."""
    env = catalogue.parallel_env(policy.env_id)
    result = []
    for seed in range(SEED, SEED + EPISODES):
        observations, infos = env.reset(seed=seed)
        agents, total, choices = env.unwrapped.world.agents, 0.0, []
        places = [[agent.state.p_pos.tolist() for agent in agents]]
        while env.agents:
            actions = policy(observations, infos)
            choices.append([_choice(policy, n, actions[name]) for n, name in enumerate(policy.spec.agent_names)])
            observations, rewards, _, _, infos = env.step(actions)
            places.append([agent.state.p_pos.tolist() for agent in agents])
            total += np.mean(list(rewards.values()))
        result.append({"places": np.array(places), "choices": choices, "total": total})
    return result


def _choice(policy: Policy, n: int, action: int) -> dict[str, int | None]:
    heads = [head.is_message for head in policy.spec.agents[n].heads]
    move = action % 5 if heads[0] is False else 0
    return {"move": move, "say": None if not any(heads) else action // 5 if len(heads) == 2 else action}


def test_the_page_plays_the_episodes_of_mpe2(browser: Browser, page: tuple[Policy, Path]) -> None:
    """Every part: the actor in the reader's place, through the steps that a reader takes."""
    policy, path = page
    browser.open(path, "#script=agents")
    browser.wait("document.getElementById('trace') !== null")
    trace = json.loads(browser.evaluate("document.getElementById('trace').textContent"))
    expected = in_mpe2(policy)
    assert set(trace) == ({"both", "watch"} if "reference" in policy.env_id else {"listen", "speak", "watch"})
    for part in trace.values():
        for one, played in zip(part["rounds"], expected, strict=True):
            assert np.abs(np.array(one["trail"]).swapaxes(0, 1) - played["places"]).max() < 1e-9
            assert one["acts"] == played["choices"]
            assert abs(one["total"] - played["total"]) < 1e-9
        points = part["points"]
        assert points.get("you", points["agents"]) == pytest.approx(points["agents"], abs=1e-9)
        assert points["still"] < points["silent"] < points["agents"]
    assert not browser.errors
    assert {url.split("#")[0] for url in browser.requests} - {"about:blank"} == {path.as_uri()}


def test_a_reader_who_plays_as_the_actor_earns_its_score(browser: Browser, page: tuple[Policy, Path]) -> None:
    """By keys, on a phone's screen: nothing moves on the page, and nothing is wider than it."""
    policy, path = page
    own = policy.spec.agent_names.index("agent_0" if "reference" in policy.env_id else "listener_0")
    browser.open(path, size=(390, 844), dark=True)
    places = (
        "['board', 'controls', 'notes'].map(id => Math.round(document.getElementById(id).getBoundingClientRect().y))"
    )
    before = browser.evaluate(places)
    for number, played in enumerate(in_mpe2(policy)):
        browser.click(".go") if number == 0 else browser.evaluate("document.querySelector('.go').click()")
        for step, choices in enumerate(played["choices"]):
            keys = [KEYS[choices[own]["move"]]]
            if choices[own]["say"] is not None:
                keys.insert(0, str((choices[own]["say"] + 1) % 10))
            for key in keys:
                if number == 0 and step < 2:
                    browser.press(key)  # as a hand does; each waits for a frame of the screen
                else:
                    browser.evaluate(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {_event(key)}))")
        assert browser.evaluate("document.getElementById('step').textContent") == "step 25 of 25"
        text = browser.evaluate("document.getElementById('card').innerText").replace("−", "-")
        assert f"You {played['total']:.1f}, the pair {played['total']:.1f}" in text
        assert browser.evaluate(places) == before
    browser.evaluate("document.querySelector('.go').click()")
    scores = browser.evaluate("document.getElementById('card').innerText").split("\n")
    assert scores[scores.index("you") + 1] == scores[scores.index("trained pair") + 1]
    assert "You speak it." in " ".join(scores)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    assert not browser.errors


def _event(key: str) -> str:
    return json.dumps({"key": key, "bubbles": True, "cancelable": True})


def test_time_runs_until_the_round_is_over(browser: Browser, page: tuple[Policy, Path]) -> None:
    """A letter that was said once stays said; without one no time runs."""
    policy, path = page
    browser.open(path)
    if "reference" in policy.env_id:
        browser.evaluate("document.getElementById('pace').click()")
    else:
        browser.click("[data-part=speak]")
    browser.evaluate("document.querySelector('.go').click()")
    browser.press(" ")
    assert browser.evaluate("document.getElementById('step').textContent") == "step 0 of 25"
    browser.press("1")
    browser.press(" ")
    browser.wait("parseInt(document.getElementById('step').textContent.slice(5)) >= 3")
    assert browser.evaluate("document.getElementById('own-letter').textContent") == "A"
