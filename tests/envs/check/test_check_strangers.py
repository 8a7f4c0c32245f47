"""envs.check reads what a run reads: metadata, keys beside agents, agents out of turn."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import strange_envs
from toy_envs import MaskedInfo, Toy

from envs import EnvFailure, UserError
from envs.check.command import main
from envs.check.verdict import check
from envs.pettingzoo.env import PettingZooEnv

LEGAL = ("ComesLate", "Common", "Images", "OneBuffer", "OneLeaves", "Shuffled", "Speaks")


@pytest.mark.parametrize("name", LEGAL)
def test_legal_oddities_are_no_breach(name):
    """What PettingZoo's own test lets pass: keys beside agents, another order of agents, one array, late arrivals."""
    with warnings.catch_warnings():  # the package of PettingZoo's tests imports what PettingZoo calls old
        warnings.simplefilter("ignore")
        from pettingzoo.test import parallel_api_test

        make = getattr(strange_envs, name)
        parallel_api_test(make(), 20)
    assert check(make) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WrongHeads", r"the heads .* of agent 'left' make 8 joint choices, but its action space is Discrete\(6"),
        ("RouteOutside", r"routes\[0\] has a start that ends at entry 7, but the observation of 'right' has 6"),
        ("FalseRoute", r"the route from 'left' to 'right' is declared at entries 3 to 5, but after 'left' played"),
        ("OldReset", r"reset must return \(observations, infos\), got dict of observations only"),
    ],
)
def test_metadata_and_resets_in_the_words_of_a_run(name, words):
    """Three agents: unpacked as a pair, their observations would put the blame elsewhere."""
    make = getattr(strange_envs, name)
    breaches = check(make)
    assert len(breaches) == 1 and re.search(words, breaches[0]), breaches
    with pytest.raises(UserError, match=words):
        PettingZooEnv(make=make)


def test_a_mask_over_joint_actions_is_no_breach():
    """In the info, where PettingZoo's own test does not look."""
    assert check(strange_envs.Joint) == []


def test_metadata_of_another_type():
    class Listed(Toy):
        metadata = {"heads": [["move", 4]]}  # noqa: RUF012

    assert "heads must be a dict, got [['move', 4]]" in check(Listed)[0]


def test_an_agent_may_wait_where_it_is_not_its_turn():
    """Told by the environment, or at the reset; nobody may wait while nobody has a choice."""

    class Turns(MaskedInfo):
        mover_named = True

        def infos(self, names):
            mover = self.possible_agents[self.t % 2]
            infos = {name: {"action_mask": np.full(4, name == mover, np.int8)} for name in names}
            return (
                {name: {**info, "active_agent": mover} for name, info in infos.items()} if self.mover_named else infos
            )

    class Untold(Turns):
        mover_named = False

    class Stuck(Turns):
        def infos(self, names):
            return {name: {"action_mask": np.zeros(4, np.int8)} for name in names}

    assert check(Turns) == check(Untold) == []
    words = "action_mask of agent 'a_0': allows no action"
    assert f"at the reset: {words}" in check(Stuck)[0]
    with pytest.raises(EnvFailure, match=words):
        PettingZooEnv(make=Stuck).reset(0)


def test_the_option_that_the_message_names(capsys):
    assert main(["strange_envs:Endless", "--max-steps", "30"]) == 2
    assert "did not end within 30 steps" in (out := capsys.readouterr().out) and "--max-steps" in out
    assert main(["toy_envs:Toy", "length=60", "--max-steps", "30"]) == 2
    assert main(["toy_envs:Toy", "length=60", "--max-steps", "70"]) == 0


def turns():
    from pettingzoo.utils.conversions import parallel_to_aec

    return parallel_to_aec(Toy())


class NeedsRender(Toy):
    def __init__(self, render_mode):
        super().__init__()


class BigRewards(Toy):
    def reward(self, name):
        return 1e6 * super().reward(name)


def test_habits_in_words(capsys):
    """A conversion is told, a missing argument named, large rewards are legal."""
    main(["test_check_strangers:turns", "--episodes", "1"])
    assert "'test_check_strangers:turns' is an AECEnv: it is played by pettingzoo's" in capsys.readouterr().out
    assert main(["test_check_strangers:NeedsRender"]) == 2
    assert "missing 1 required positional argument: 'render_mode'" in capsys.readouterr().err
    assert main(["test_check_strangers:NeedsRender", "render_mode=human", "--episodes", "1"]) == 0
    assert check(BigRewards) == []
