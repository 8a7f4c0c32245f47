"""Pages that are made from the code, or state what the code does, agree with it."""

from __future__ import annotations

import ast
import importlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import whole
from world_model_data import play

import envs
import marl.communication
import marl.evaluate
from docs import write_settings
from envs.batched import BatchedEnv
from envs.history import History
from envs.streams import Stream
from marl import Policy
from marl.config.fields import settings
from marl.config.schema import Config, MADDPGConfig
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.learner.maddpg import MADDPG
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.runs import checkpoint
from marl.world_model.imagination.rollouts import rows_of
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------ docs/cli.md
def test_the_table_of_settings_is_the_configurations() -> None:
    page = write_settings.PAGE.read_text(encoding="utf-8")
    assert page == write_settings.written(page), "run: python -m docs.write_settings"
    assert [s.flag for s in settings(Config).values() if f"| `{s.flag}` |" not in page] == []


def test_a_changed_table_is_noticed() -> None:
    page = write_settings.PAGE.read_text(encoding="utf-8")
    changed = page.replace("| `--maddpg.gamma` | `0.95` |", "| `--maddpg.gamma` | `0.9` |")
    assert changed != page and write_settings.written(changed) == page


# ------------------------------------------------------------------ mkdocs.yml
def test_the_menu_has_every_page() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    files = [path for kind in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(kind)]
    pages = sorted(str(path.relative_to(ROOT / "docs").with_suffix(".md")) for path in files)
    assert sorted(re.findall(r"[\w/]+\.md", menu)) == pages


# ------------------------------------------------------------------ notebooks, which the build of the site executes
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
    for cell in code:
        compile("".join(cell["source"]), path.name, "exec")


# ------------------------------------------------------------------ docs/reference/
def test_the_reference_names_what_there_is() -> None:
    """Every public name of the package, and nothing that is gone."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    listed = re.findall(r"^::: ([\w.]+)$", pages, re.M)
    found = []
    for name in listed:
        module, _, attribute = name.rpartition(".")
        found.append(getattr(importlib.import_module(module), attribute))
    assert len(listed) == len(set(listed)) > 30
    for package in (marl, marl.evaluate, marl.communication):
        assert [name for name in package.__all__ if getattr(package, name) not in found] == []


# ------------------------------------------------------------------ docs/shapes.md
SHAPES = (ROOT / "docs" / "shapes.md").read_text(encoding="utf-8")
LETTERS = dict(re.findall(r"^\| (\w) \| (.+) \|$", SHAPES.partition("\n## At the seams")[0], re.M))
ELSEWHERE = dict(re.findall(r"^\| (\w) \| (.+) \|$", SHAPES.partition("\n## Where a letter")[2], re.M))
ROWS = {
    name: (kind or "float32", shape, bool(optional))
    for name, optional, kind, shape in re.findall(
        r"^\| `(.+?)`( \?)? \| (?:(\w+) )?`\[(.+)\]` \|$", SHAPES.partition("\n## At the seams")[2], re.M
    )
}
CODE = [*sorted((ROOT / "marl").rglob("*.py")), *sorted((ROOT / "envs").rglob("*.py"))]
HIDDEN = (11, 12)


def sizes_of(env: BatchedEnv, replicas: int, batch: int, critics: int = 2) -> dict[str, int]:
    """The letters' numbers, but for P, T, o and k."""
    spec = env.spec
    n, a = spec.num_agents, spec.num_heads * spec.head_size
    sizes = {"S": replicas, "N": n, "R": env.num_envs, "E": env.num_envs // replicas, "B": batch, "C": critics, "G": n}
    sizes |= {"O": spec.obs_size, "H": spec.num_heads, "K": spec.head_size, "A": a, "D": n * (spec.obs_size + a)}
    own = {"F": sum(agent.obs_size for agent in spec.agents), "U": sum(agent.choices for agent in spec.agents)}
    return sizes | own | {"n": len(spec.senders), "W": HIDDEN[0]}


def given(prefix: str, record: Any) -> dict[str, Any]:
    return {f"{prefix}.{field.name}": getattr(record, field.name) for field in fields(record)}


def seams(env: BatchedEnv, replicas: int, batch: int) -> dict[str, Any]:
    """What passes between an environment, a collector, a replay and a learner in one step and one update."""
    spec = env.spec
    config = MADDPGConfig(hidden=HIDDEN, twin_critics=True)
    learner = MADDPG(spec, config, seed=0, replicas=range(replicas))
    result: dict[str, Any] = {"env.reset()": env.reset(seed=0), "env.mask": env.mask}
    actions = torch.zeros(spec.num_agents, env.num_envs, spec.num_heads, dtype=torch.int64)
    if env.mask is not None:
        actions = env.mask.int().argmax(-1)
    step = env.step(actions)
    result |= {"env.step(actions)": actions, "Step.ended": step.ended, **given("Step", step)}

    collector = Collector(env, learner.act, replicas)
    result["learner.act(obs, mask)"] = learner.act(collector.obs_SNEO, collector.mask)
    transitions, finished = collector.collect()
    result |= given("Transitions", transitions)
    result |= dict(zip(("finished returns", "finished episodes"), finished, strict=True))

    replay = Replay(spec, 100, env.num_envs // replicas, Stream(0, "replay", range(replicas)), config.gamma)
    replay.add(transitions)
    sampled = replay.sample(batch)
    result |= given("Batch", sampled) | {"Batch.obs": sampled.obs, "Batch.action": sampled.action}
    result["learner.actor(obs)"] = learner.actor(sampled.obs)
    result["learner.actor(prev_obs, senders)"] = learner.actor(sampled.prev_obs, spec.senders)
    result["learner.critic(joint)"] = learner.critic(sampled.joint)
    result["learner.targets(batch)"] = learner.targets(sampled)
    result["learner.actor.mlp.flat"] = learner.actor.mlp.flat
    speaker = spec.agents[spec.senders[0]]
    metrics = learner.update(sampled, measure=True)
    metrics["entropy/AGENT/HEAD"] = metrics[f"entropy/{speaker.name}/{speaker.heads[-1].name}"]
    return result | {f"update: {name}": x for name, x in metrics.items()}


def wrong(found: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    """What a page's rows say otherwise than the tensors."""
    problems = []
    for name in sorted(found.keys() & ROWS.keys()):
        kind, shape, optional = ROWS[name]
        if found[name] is None:
            problems += [] if optional else [f"{name} is None"]
            continue
        x = torch.as_tensor(found[name])
        expected = tuple(sizes[letter] for letter in shape.split(", "))
        if tuple(x.shape) != expected or str(x.dtype) != f"torch.{kind}":
            problems.append(f"{name}: {x.dtype} {tuple(x.shape)}; the page says {kind} [{shape}] = {expected}")
    return problems


@pytest.fixture(scope="module")
def fixed() -> tuple[dict[str, Any], dict[str, int]]:
    """Six agents without masks; all letters but C and H have different numbers."""
    env = envs.make("simple_world_comm", num_envs=3 * 7)
    result, sizes = seams(env, 3, 9), sizes_of(env, 3, 9)
    sizes["P"] = result["learner.actor.mlp.flat"].shape[-1]
    return result, sizes


@pytest.fixture(scope="module")
def leaving() -> tuple[dict[str, Any], dict[str, int]]:
    """Three agents with masks, some of which leave early."""
    env = envs.make("examples.own_environment:make", num_envs=2 * 5, backend="pettingzoo")
    result, sizes = seams(env, 2, 7), sizes_of(env, 2, 7)
    env.close()
    sizes["P"] = result["learner.actor.mlp.flat"].shape[-1]
    return result, sizes


@pytest.mark.parametrize("scene", ["fixed", "leaving"])
def test_shapes_at_the_seams(scene: str, request: pytest.FixtureRequest) -> None:
    assert wrong(*request.getfixturevalue(scene)) == []


def test_a_wrong_shape_is_noticed(fixed: tuple[dict[str, Any], dict[str, int]]) -> None:
    result, sizes = fixed
    broken = result | {"Batch.joint": result["Batch.joint"].transpose(0, 1), "Step.obs": result["Step.obs"].double()}
    assert [line.partition(":")[0] for line in wrong(broken, sizes)] == ["Batch.joint", "Step.obs"]


def test_every_field_at_the_seams_has_a_row(fixed: tuple[dict[str, Any], dict[str, int]]) -> None:
    named = {name for name in fixed[0] if name.startswith(("Step.", "Transitions.", "Batch."))}
    assert sorted(named - ROWS.keys()) == []


def test_optional_tensors_are_there_where_they_are_needed(leaving: tuple[dict[str, Any], dict[str, int]]) -> None:
    absent = {name for name in ROWS if ROWS[name][2] and name in leaving[0] and leaving[0][name] is None}
    populations = {
        f"{name}.{field}" for name in ("Transitions", "Batch") for field in ("member", "learns", "next_action")
    }
    assert absent == {"Transitions.memory", *populations}  # of recurrent networks, populations and pools


def test_shapes_of_recurrent_networks() -> None:
    """Windows of four steps behind three, of two critics for each of three agents."""
    env = History(envs.make("simple_spread", num_envs=2 * 5), 1, own_action=True)
    config = MADDPGConfig(hidden=(12, 11), twin_critics=True, recurrent=True, window=4, burn_in=3)
    learner = RecurrentMADDPG(env.spec, config, 0, range(2))
    env.reset(seed=0)
    memory, stream = learner.memory(5), Stream(0, "replay", range(2))
    collector = Collector(env, memory.act, 2, memory)
    replay = WindowReplay(env.spec, 100, 5, stream, config.gamma, config.window, config.burn_in, learner.memory_shape)
    for _ in range(8):
        transitions, _ = collector.collect()
        replay.add(transitions)
    drawn = replay.sample(24)
    result = {**given("Transitions", transitions), **given("Batch", drawn), **given("Windows", drawn)}
    result |= {"memory.state": memory.state, "learner.targets(batch)": learner.targets(drawn)}
    sizes = sizes_of(env, 2, 24) | {"G": 3 * (1 + 2), "W": 12, "b": 6}
    assert len(result.keys() & ROWS.keys()) >= 18 and wrong(result, sizes) == []
    assert wrong(given("Batch", drawn.lead), sizes | {"B": 3 * 6}) == []


def at(parts: Any, place: str) -> Any:
    """A checkpoint's entry by its path; keys may hold dots and be numbers."""
    for key in place.split("/"):
        parts = parts[int(key) if key.isdigit() else key]
    return parts


def test_shapes_of_a_run(tmp_path: Path) -> None:
    """Of its checkpoint and its policy."""
    settings_of_run = {"env": "simple_world_comm", "num_replicas": 3, "num_envs": 7, "total_steps": 56}
    learner = {"maddpg.hidden": HIDDEN, "maddpg.warmup_steps": 14}
    run = whole(tmp_path / "run", {**settings_of_run, **learner})
    env = envs.make("simple_world_comm", num_envs=21)
    sizes = sizes_of(env, 3, 16)
    newest = checkpoint.newest(run / checkpoint.DIRECTORY)
    assert newest is not None
    parts = checkpoint.load(newest).parts
    sizes["P"] = parts["policy"]["actor"].shape[-1]
    places = [name for name in ROWS if name.partition("/")[0] in ("policy", "learner", "collector", "progress")]
    assert len(places) >= 10
    assert wrong({name: at(parts, name) for name in places}, sizes) == []
    critic = at(parts, "learner/networks/critic/mlp.flat")
    assert critic.shape[:2] == (3, 6) and parts["source"]["data"].shape[:2] == (3, 56)
    assert {x.shape[0] for x in tensors(parts["collector"]["env"])} == {21}

    policy = Policy.load(run)
    seen = {agent.name: torch.zeros(7, agent.obs_size).numpy() for agent in env.spec.agents}
    for agent in env.spec.agents:
        result = {
            "policy.act: observation": seen[agent.name],
            "policy.act: ids": policy.act(seen)[agent.name],
            "policy.probabilities": policy.probabilities(seen)[agent.name],
            "policy.first_weights": policy.first_weights(agent.name),
        }
        assert result.keys() <= ROWS.keys()
        assert wrong(result, {**sizes, "o": agent.obs_size}) == []
    assert {type(action) for action in policy({name: x[0] for name, x in seen.items()}).values()} == {int}


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, dict):
        return [x for inner in tree.values() for x in tensors(inner)]
    return [tree] if isinstance(tree, Tensor) else []


def test_shapes_of_sequences() -> None:
    env = envs.make("simple_world_comm", num_envs=21)
    sizes, layout = sizes_of(env, 3, 9) | {"T": 5, "V": 0}, Layout(env.spec)
    store = FrameStore((sizes["F"], sizes["U"], sizes["N"]), 3, 7, 70, "cpu")
    for transitions in play(env, 6, replicas=3):
        store.add(rows_of(layout, transitions), torch.ones(3, 7, dtype=torch.bool))
    result = given("Sequences", store.windows(5, 9, Stream(0, "windows", range(3))))
    assert result.keys() <= ROWS.keys() and wrong(result, sizes) == []


def test_every_row_is_tested(fixed: tuple[dict[str, Any], dict[str, int]]) -> None:
    elsewhere = ("policy", "learner/", "collector/", "progress/", "Sequences.", "Windows.", "memory.")
    assert sorted(name for name in ROWS if name not in fixed[0] and not name.startswith(elsewhere)) == []
    section = SHAPES.partition("\n## At the seams")[2].partition("\n## ")[0]
    assert len(ROWS) == section.count("\n| `") > 60


def declared(path: Path) -> dict[str, str]:
    """Letter -> meaning, of the docstrings of a file that list shape suffixes."""
    result = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else None
        legend = re.search(r"Shape suffixes: (.*?)(?:\. |\.?\n\n|\.?\Z)", (text or "") + "\n\n", re.DOTALL)
        if legend:
            for piece in re.split(r", | and (?=[A-Z] )", " ".join(legend[1].split())):
                match = re.match(r"(\w)(?: (.+)|$)", piece)
                if match and match[2] != "as elsewhere":
                    result[match[1]] = (match[2] or "").strip(".")
    return result


def test_every_other_meaning_of_a_letter_is_listed() -> None:
    """A docstring's meaning shares a word with the alphabet's, or the file stands in the table of other meanings."""
    assert sum(bool(declared(path)) for path in CODE) >= 25
    missing = []
    for path in CODE:
        name = str(path.relative_to(ROOT))
        for letter, meaning in declared(path).items():
            words = set(re.findall(r"[a-z]{5,}|[A-Z] \* [A-Z(]", meaning))
            common = {word for word in words if word.rstrip("s") in LETTERS.get(letter, "")}
            if letter not in LETTERS or (words and not common):
                missing += [] if f"`{name}`" in ELSEWHERE.get(letter, "") else [f"{letter} {name}: {meaning}"]
    assert missing == []


def test_letters_without_an_own_meaning_are_listed() -> None:
    """Every variable whose name ends in shape letters that the alphabet lacks."""
    missing = set()
    for path in CODE:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            variable = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
            suffix = re.search(r"[a-z]_([A-Zn0-9]{1,6})$", variable)
            for letter in set(suffix[1] if suffix else "") - LETTERS.keys() - set("0123456789"):
                if f"`{name}`" not in ELSEWHERE.get(letter, ""):
                    missing.add(f"{letter} {name}: {variable}")
    assert sorted(missing) == []
