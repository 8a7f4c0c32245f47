"""The explicit update where agents come and leave and choices are forbidden, beside the one by autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_explicit_update import FORMS, SPECS, compared

from marl.config.schema import MADDPGConfig


@pytest.mark.parametrize("form", FORMS)
def test_agents_that_are_not_there_earn_no_bonus_for_signalling(form: str) -> None:
    """Guard: seen failing with either form over all rows."""
    spec = replace(SPECS["simple_reference"], fixed_agents=False)
    compared(spec, MADDPGConfig(hidden=(8,), signalling_bonus=3.0, signalling_k=0.7), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("estimator", ["gumbel_soft", "gumbel_st", "straight_through", "exact"])
def test_absent_agents_and_forbidden_choices(estimator: str, form: str) -> None:
    spec = replace(SPECS["simple_world_comm"], has_masks=True, fixed_agents=False)
    compared(spec, MADDPGConfig(hidden=(12,), estimator=estimator, logit_penalty=0.1), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("twins", [False, True])
def test_teams_of_which_some_are_not_there(twins: bool, form: str) -> None:
    """Guard: seen failing without the values, and without the rewards, of an agent that goes on."""
    spec = replace(SPECS["simple_world_comm"], fixed_agents=False)
    config = MADDPGConfig(hidden=(12,), critic="factored", team_reward=True, twin_critics=twins)
    compared(spec, config, form)
