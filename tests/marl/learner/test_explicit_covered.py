"""Which learners the explicit update covers, and how a form of it is chosen."""

from __future__ import annotations

import errno
import warnings
from typing import Any

import pytest
import torch
from test_explicit_update import IDS, SPECS

from marl.config.resolve import tuned
from marl.config.schema import MADDPGConfig
from marl.learner.explicit.covered import covers
from marl.learner.maddpg import MADDPG
from marl.parallel.data_mode import SplitUpdates
from marl.parallel.ranks import Ranks


def test_what_is_not_covered_is_told() -> None:
    spec, cpu = SPECS["simple_reference"], torch.device("cpu")
    assert covers(spec, MADDPGConfig(), cpu) is None
    for options, word in (
        ({"estimator": "reinmax"}, "reinmax"),
        ({"message_estimator": "reinforce"}, "reinforce"),
        ({"estimator": "reinmax", "message_estimator": "gapped"}, "the estimator gapped"),
        ({"other_actions": "current"}, "other_actions"),
        ({"listening_bonus": 1.0}, "listening"),
    ):
        reason = covers(spec, MADDPGConfig(**options), cpu)
        assert reason is not None and word in reason
        assert word in MADDPG(spec, MADDPGConfig(**options), 0).path
    assert "meta" in str(covers(spec, MADDPGConfig(), torch.device("meta")))
    learner = MADDPG(spec, MADDPGConfig(), 0)
    assert learner.path.startswith("explicit")
    assert "averaged" in MADDPG(spec, MADDPGConfig(), 0, share=SplitUpdates(Ranks())).path


def test_an_estimator_that_no_head_has_excludes_nothing() -> None:
    """One position, a message of the speaker and a move of the listener: its estimator is that of moves.

    Guard: seen failing with the setting itself looked at: autograd for an estimator that was used nowhere.
    """
    config = MADDPGConfig(message_estimator="reinforce")
    assert covers(SPECS["simple_speaker_listener"], config, torch.device("cpu")) is None
    assert MADDPG(SPECS["simple_speaker_listener"], config, 0).estimator_H == ("gumbel_st",)


def test_kernels_that_cannot_be_kept_compute_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: seen failing with the error of the full disk at the first call, the end of a run."""
    kernels = pytest.importorskip("marl.learner.explicit.kernels_numba_memory")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    kernels._tell.cache_clear()
    inner = kernels._compiled(lambda x: x + 1)
    outer = kernels._compiled(lambda x: 2 * inner(x))
    with pytest.warns(RuntimeWarning, match=r"cannot be kept on disk \(No space left on device\)") as told:
        assert [outer(3), outer(2.5)] == [8, 7.0]
    assert len(told) == 1


def test_a_form_is_chosen_by_name() -> None:
    learner = MADDPG(SPECS["simple_reference"], MADDPGConfig(), 0)
    learner.use("autograd", "it is compared")
    assert learner.form == "autograd" and learner.path == "autograd, since it is compared"
    learner.use("torch")
    assert learner.form == "torch" and learner.path == "explicit, torch kernels"
    with pytest.raises(ValueError, match="got 'jax'"):
        learner.use("jax")
    uncovered = MADDPG(SPECS["simple_reference"], MADDPGConfig(estimator="reinmax"), 0)
    with pytest.raises(ValueError, match="reinmax"):
        uncovered.use("torch")


def test_the_settings_that_ship_are_covered() -> None:
    with warnings.catch_warnings():
        for name in IDS:
            assert covers(SPECS[name], tuned(name).maddpg, torch.device("cpu")) is None, name
