"""The environment that an evaluation makes to read its spec."""

import pytest

from marl.evaluate import returns as evaluation


@pytest.mark.parametrize(("name", "closed"), [("simple", 0), ("toy_envs:Masked", 1)])
def test_an_environment_that_is_made_for_its_spec_is_closed_unless_it_is_mpe_s(name, closed, monkeypatch):
    """Closing one of mpe2's ends the drawing of all others."""
    calls = []
    made = evaluation.parallel_env

    def watched(env_id, **args):
        env = made(env_id, **args)
        close = env.close
        monkeypatch.setattr(env, "close", lambda: (calls.append(env_id), close()), raising=False)
        return env

    monkeypatch.setattr(evaluation, "parallel_env", watched)
    assert evaluation._spec_of(name, {}).num_agents > 0
    assert len(calls) == closed
