"""A recorded round is the round: on a tape of its operations on a CPU, and in CUDA graphs where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tape import HostAsked, Tape, memory
from tiny_trainer import ROUNDS, played, trainer
from torch import Tensor
from whole_runs import MANY_OPTIONS, differences

import envs
from envs.history import History
from envs.mpe.catalogue import MPE_IDS
from marl.errors import RunFailed
from marl.learner.maddpg import MADDPG
from marl.parallel.data_mode import SplitUpdates
from marl.parallel.ranks import Ranks
from marl.training import cuda_graphs as captured
from marl.training.cuda_graphs import WARM_UP, Graphs
from marl.training.trainer import Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "env": "simple_reference",
        "num_replicas": 2,
        **MANY_OPTIONS,
        "maddpg.signalling_final": 0.2,
        "maddpg.temperature": 2.0,
        "maddpg.updates_per_step": 0.6,
        "maddpg.diagnostics_every": 30,
    },
    "surrogates": {
        "env": "simple_reference",
        "maddpg.estimator": "exact",
        "maddpg.message_estimator": "reinforce",
        "maddpg.independent_critics": True,
        "maddpg.target_action": "argmax",
    },
    "frames": {
        "env": "simple_adversary",
        "maddpg.frames": 2,
        "maddpg.critic": "factored",
        "maddpg.team_reward": True,
        "maddpg.share_actors": True,
    },
    "pool": {
        "env": "simple_crypto",
        "num_replicas": 2,
        "env_args": {"max_cycles": 9},
        "opponents.kind": "pool",
        "opponents.every": 40,
        "opponents.draw": "prioritised",
        "opponents.replicas": True,
        "maddpg.share_actors": True,
    },
    "recurrent": {
        "maddpg.recurrent": True,
        "maddpg.window": 2,
        "maddpg.burn_in": 2,
        "maddpg.n_step": 2,
        "replay.capacity": 80,
    },
    "ends that only the device knows": {"env": "simple_spread", "env_args": {"terminate_on_success": True}},
}


LONG = ("defaults", "everything")


class Nothing:
    """A further loss of the actors."""

    def loss(self, temperature: Tensor) -> Tensor:
        return torch.zeros(1, 1)


def whole_state(made: Trainer) -> dict[str, Any]:
    parts = made.parts()
    parts["progress"].pop("seconds")
    return {**parts, "records": made.journal.logger.kept}  # type: ignore[attr-defined]


def outliving(made: Trainer) -> dict[str, Tensor]:
    """Every tensor that a round leaves for the next one, and those that it reads."""
    result: dict[str, Tensor] = {}

    def look(name: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, Tensor):
            result[name] = value
        elif isinstance(value, dict):
            for key, one in value.items():
                look(f"{name}[{key}]", one, depth + 1)
        elif isinstance(value, list | tuple):
            for k, one in enumerate(value):
                look(f"{name}[{k}]", one, depth + 1)
        elif depth < 6 and hasattr(value, "__dict__") and type(value).__module__.split(".")[0] in ("marl", "envs"):
            for key, one in {**vars(value), **vars(value).get("_parameters", {})}.items():
                look(f"{name}.{key}", one, depth + 1)

    for name in ("env", "learner", "source", "collector", "returns"):
        look(name, getattr(made.rounds, name))
    for name, moments in made.rounds.learner.moments.items():
        for key, one in moments.optimiser.state_dict()["state"].items():
            look(f"{name} optimiser[{key}]", one)
    return result


# ------------------------------------------------------------------ the tape itself
def test_a_tape_repeats_the_operations_on_the_same_memory() -> None:
    x, total, seen = torch.ones(3), torch.zeros(3), []

    def work() -> None:
        seen.append(1)
        half = (x * 0.5).view(3)
        half += 1
        total.add_(half)

    recorder = Tape.Recorder()
    replay = recorder.record(work)
    assert total.tolist() == [0.0] * 3, "recording has no effect"
    replay()
    x.fill_(4.0)
    replay()
    assert total.tolist() == [1.5 + 3.0] * 3 and len(seen) == 1


X = torch.arange(4.0)


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.sum().item(),
        lambda: bool(X.sum() > 0),
        lambda: X[X > 1],
        lambda: X[[0, 1]],
        lambda: X.nonzero(),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: X.tolist() if X.dim() == 0 else float(X[0]),
        lambda: torch.unique(X),
    ],
)
def test_a_tape_refuses_what_needs_the_host(work: Callable[[], Any]) -> None:
    with pytest.raises(HostAsked):
        Tape.Recorder().record(work)


# ------------------------------------------------------------------ the trainer's round on it
@pytest.mark.parametrize("name", SETTINGS)
def test_replayed_rounds_equal_rounds(name: str) -> None:
    """All state and every record, to the last bit, after 100 (60) rounds of which most were replayed.

    Guard: seen failing with the temperature and with the step sizes as Python numbers.
    """
    recorder, rounds = Tape.Recorder(), ROUNDS if name in LONG else 60
    plain, taped = played(trainer(SETTINGS[name]), rounds), played(trainer(SETTINGS[name], recorder), rounds)
    assert plain.rounds.learner.updates > rounds / 2 and len(taped.rounds.graphs) == len(recorder.tapes) >= 2
    assert not differences(whole_state(plain), whole_state(taped))


def test_the_host_is_not_asked_and_nothing_that_outlives_a_round_is_replaced() -> None:
    made = played(trainer(SETTINGS["everything"], Tape.Recorder()), 60)
    before = {name: (memory(x), x.data_ptr(), x.shape) for name, x in outliving(made).items()}
    assert {"source.data_SCD", "collector.obs_SNEO", "learner.schedules.temperature", "env._episodes.number_E"} <= set(
        before
    )
    assert any("exp_avg_sq" in name for name in before) and any("world" in name for name in before)
    played(made, 30)  # a measured round among them, which is not replayed
    assert {name: (memory(x), x.data_ptr(), x.shape) for name, x in outliving(made).items()} == before


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(captured, "WARM_UP", 1)
    yield monkeypatch


def test_a_round_that_asks_the_host_cannot_be_recorded(fast: pytest.MonkeyPatch) -> None:
    plain = MADDPG.targets

    def asks(self: MADDPG, batch: Any) -> Tensor:
        result = plain(self, batch)
        assert result.sum().item() < 1e9
        return result

    fast.setattr(MADDPG, "targets", asks)
    with pytest.raises(RunFailed, match=r"update.*could not be recorded.*--no-graphs"):
        played(trainer({}, Tape.Recorder()), 30)


def test_a_number_of_the_host_is_seen_on_a_tape(fast: pytest.MonkeyPatch) -> None:
    """The comparison has teeth: a schedule that is not a tensor makes another run."""
    settings = {"maddpg.temperature": 4.0, "maddpg.temperature_final": 0.1}
    made = [trainer(settings), trainer(settings, Tape.Recorder())]
    for one in made:
        schedules = one.rounds.learner.schedules
        kept = schedules.follow

        def follow(progress: float, schedules: Any = schedules, kept: Any = kept) -> None:
            kept(progress)
            schedules.temperature = torch.full((), 4.0 * 0.025**progress)  # replaced, not written

        schedules.follow = follow  # type: ignore[method-assign]
        played(one, 60)
    assert differences(whole_state(made[0]), whole_state(made[1]))


# ------------------------------------------------------------------ the device alone
class NoSteps:
    """Adam without its arithmetic, which torch has on real devices only."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        self.param_groups, self.state = [settings], {}

    def step(self) -> None: ...


WITHOUT_NUMBERS = {  # short episodes and a small replay: a few rounds end the ones and go round the other
    **{
        name: {**chosen, "env_args": {**chosen.get("env_args", {}), "max_cycles": 2}, "replay.capacity": 24}
        for name, chosen in SETTINGS.items()
    },
    **{env: {"env": env, "env_args": {"max_cycles": 2}} for env in MPE_IDS},
}


@pytest.mark.parametrize("name", WITHOUT_NUMBERS)
def test_a_round_needs_no_number_and_no_other_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the device "meta" have shapes and no contents, and mix with no other device's.

    Guard: seen failing with a constant of a scenario left on the CPU.
    """
    monkeypatch.setattr(torch.optim, "Adam", NoSteps)
    few = {"maddpg.updates_per_step": 0.2, "maddpg.warmup_steps": 4}
    quiet = {"maddpg.diagnostics_every": 0, "logging.every": 10_000, **few}
    made = trainer({**WITHOUT_NUMBERS[name], **quiet}, device="meta")
    inner = made.rounds.env.env if isinstance(made.rounds.env, History) else made.rounds.env
    inner._check_next = False  # type: ignore[attr-defined]  # the first step's actions are read, and not recorded
    played(made, 9 if name in SETTINGS else 6)
    assert made.rounds.learner.updates >= 2 and made.rounds.collector.obs_SNEO.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        made.rounds.collector.obs_SNEO.sum().item()


# ------------------------------------------------------------------ what is recorded
def test_graphs_warm_up_record_and_replay() -> None:
    output: list[str] = []

    class Spy:
        def warm(self, work: Callable[[], None]) -> None:
            output.append("warm")
            work()

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            output.append("record")
            work()
            return lambda: output.append("replay")

    graphs, calls = Graphs(Spy()), []
    for _ in range(WARM_UP + 3):
        graphs.run("a", lambda: calls.append("work"), lambda: calls.append("repeated"))
    assert output == ["warm"] * WARM_UP + ["record", "replay", "replay", "replay"]
    assert calls == ["work"] * (WARM_UP + 1) + ["repeated"] * 2
    graphs.run(None, lambda: calls.append("work"), lambda: calls.append("repeated"))
    assert calls[-1] == "work" and len(graphs) == 1
    graphs.forget()
    graphs.run("a", lambda: None, lambda: None)
    assert output[-1] == "warm" and len(graphs) == 0


def test_nothing_is_recorded_on_a_cpu_or_where_it_is_not_wanted() -> None:
    for graphs in (Graphs.on(torch.device("cpu")), Graphs.on(torch.device("cuda"), wanted=False)):
        done: list[int] = []
        for _ in range(WARM_UP + 2):
            graphs.run("a", lambda done=done: done.append(1), lambda: None)
        assert len(done) == WARM_UP + 2 and len(graphs) == 0


def test_where_the_host_takes_part_nothing_is_recorded() -> None:
    made = trainer({"maddpg.n_step": 3}, Tape.Recorder())
    assert made.rounds.step_kind() is None and made.rounds.update_kind() is None, "the window is still filling"
    played(made, 8)
    assert made.rounds.step_kind() is not None and made.rounds.update_kind() is not None
    shared = MADDPG(made.rounds.env.spec, made.config.maddpg, 0, share=SplitUpdates(Ranks()))
    assert made.rounds.learner.pattern() is not None and shared.pattern() is None, "ranks exchange gradients"
    made.rounds.learner.add_actor_loss(Nothing())
    assert made.rounds.update_kind() is None, "a world model adds its loss"
    real = envs.make("simple_spread", num_envs=2, backend="pettingzoo")
    assert real.pattern() is None
    real.close()
    with pytest.raises(NotImplementedError):
        real.replayed()


# ------------------------------------------------------------------ gradients that are not finite
def test_watching_late_changes_nothing_where_all_is_well() -> None:
    plain, watched = played(trainer({}), 40), played(trainer({}, late=True), 40)
    watched.rounds.learner.check()
    assert not differences(whole_state(plain), whole_state(watched))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("which", "others"), [("critic", "actor"), ("actor", "critic")])
def test_a_late_fault_is_not_applied_and_told_as_at_once(
    which: str, others: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = torch.ones(2, 2)  # of replica and agent: a tensor, so that it reaches what has been recorded
    step = MADDPG._step

    def poisoned(self: MADDPG, loss: Tensor, module: Any, optimiser: Any, name: str) -> Tensor:
        if name == which:
            loss = loss + (module.mlp.flat.sum(2) * poison).sum() * 0.0
        return step(self, loss, module, optimiser, name)

    monkeypatch.setattr(MADDPG, "_step", poisoned)
    settings = {"num_replicas": 2, "logging.every": 10_000}
    output = []
    for recorder, late in ((None, False), (Tape.Recorder() if recorded else None, True)):
        poison.fill_(1.0)
        made = played(trainer(settings, recorder, late=late), 40)
        poison[1, 1] = float("nan")
        networks = {name: module.mlp.flat.detach().clone() for name, module in made.rounds.learner._modules().items()}
        with pytest.raises(RunFailed) as failure:
            played(made, 5)
            poison.fill_(1.0)
            played(made, 5)  # nothing is applied any more
            made.rounds.check()
        output.append(str(failure.value).split(": ", 1)[-1])
        own = made.rounds.learner._modules()[which].mlp.flat
        assert torch.equal(own, networks[which]) and own.isfinite().all()
        assert made.rounds.learner._modules()[others].mlp.flat.isfinite().all()
    assert output[0] == output[1]
    assert f"the gradient of the {which} loss of agent 'listener_0' (replica 1) is not finite at update 3" in output[0]


# ------------------------------------------------------------------ on a GPU
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
@pytest.mark.parametrize("name", SETTINGS)
def test_cuda_graphs_equal_launched_kernels(name: str) -> None:
    plain = played(trainer(SETTINGS[name], None, "cuda"))
    graphs = trainer(SETTINGS[name], None, "cuda")
    graphs.rounds.graphs = Graphs.on(torch.device("cuda"))
    played(graphs)
    graphs.rounds.learner.check()
    assert plain.rounds.learner.updates >= ROUNDS / 2 and len(graphs.rounds.graphs) >= 2
    for one, two in zip(
        plain.rounds.learner._modules().values(), graphs.rounds.learner._modules().values(), strict=True
    ):
        torch.testing.assert_close(one.mlp.flat, two.mlp.flat, rtol=1e-4, atol=1e-5)


@cuda
def test_a_fault_in_a_cuda_graph_is_told() -> None:
    made = trainer({}, None, "cuda")
    made.rounds.graphs = Graphs.on(torch.device("cuda"))
    played(made, 40)
    made.rounds.source.data_SCD.fill_(float("nan"))  # type: ignore[attr-defined]
    kept = made.rounds.learner.critic.mlp.flat.detach().clone()
    played(made, 3)
    with pytest.raises(RunFailed, match=r"critic loss of agent 'speaker_0' \(replica 0\) is not finite at update"):
        made.rounds.check()
    assert torch.equal(kept, made.rounds.learner.critic.mlp.flat)
