"""Plays every scripted policy and pairing in the real environments and writes what each side returned.

    python -m benchmarks.learning.anchors [--out benchmarks/results/anchors.json] [--scale 1.0] [--only ENV ...]
    python -m benchmarks.learning.anchors --scale 0 --table marl/scripted/measured.py --page docs/scripted.md

Episode e is reset with seed 1000000 + e. Entries that the file already holds with as many episodes are kept, so that
an interrupted run goes on. `--table` copies the file's numbers into the package, `--page` writes the page that lists
all scripts. About an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from envs.mpe import catalogue
from marl.evaluate.anchors import sides
from marl.play.rollout import play
from marl.scripted.by_name import TABLE, scripted
from marl.stats import mean_and_se

SEED = 1_000_000
PLAN: dict[str, dict[str, int]] = {
    "simple_v3": {"random": 20_000, "noop": 20_000, "coast": 4000, "oracle": 4000},
    "simple_speaker_listener_v4": {"random": 20_000, "noop": 20_000, "coast": 4000, "silent": 4000, "oracle": 4000},
    "simple_reference_v3": {"random": 10_000, "noop": 10_000, "coast": 4000, "silent": 4000, "oracle": 4000},
    "simple_spread_v3": {"random": 4000, "noop": 4000, "fixed": 4000, "coast": 4000, "oracle": 4000},
    "simple_line_v1": {"random": 4000, "noop": 4000, "coast": 4000, "oracle": 4000},
    "simple_formation_v1": {"random": 4000, "noop": 4000, "coast": 4000, "oracle": 4000},
    "simple_crypto_v3": {"random": 4000, "noop": 4000, "plain": 4000, "oracle": 4000},
    "collect_treasure_v1": {"random": 2000, "noop": 2000, "nearest": 2000, "greedy": 2000, "best": 2000},
    "simple_adversary_v3": {
        "random": 4000,
        "noop": 4000,
        **{f"{a}+{g}": 2000 for a in ("midpoint", "follow", "omniscient") for g in ("direct", "cover", "planned")},
        **{f"{a}_reflex+{g}_reflex": 1000 for a in ("midpoint", "follow") for g in ("direct", "cover")},
    },
    "simple_push_v3": {
        "random": 4000,
        "noop": 4000,
        "planned+noop": 4000,
        **{f"{a}+{g}": 2000 for a in ("midpoint", "follow", "guess", "block") for g in ("direct", "planned")},
    },
    "simple_tag_v3": {
        "random": 4000,
        "noop": 4000,
        "flee+random": 2000,
        "chase+random": 2000,
        "surround+random": 2000,
        "chase+flee": 2000,
        "surround+flee": 2000,
    },
    "simple_world_comm_v3": {
        "random": 2000,
        "noop": 2000,
        **{f"{g}+random": 1000 for g in ("feed", "flee")},
        **{f"{a}+{g}": 1000 for a in ("chase", "surround", "hunt") for g in ("random", "feed", "flee")},
    },
}


def measure(env_id: str, name: str, episodes: int) -> dict[str, object]:
    """{side: [mean, standard error]} of the mean return of the side's agents, with the time it took."""
    spec = catalogue.describe(env_id, catalogue.parallel_env(env_id))
    start = time.process_time()
    returns = play(env_id, scripted(env_id, name, spec=spec), episodes, SEED, spec=spec).returns
    result: dict[str, object] = {"episodes": episodes}
    for side, agents in sides(spec).items():
        columns = [spec.agent_names.index(agent) for agent in agents]
        mean, error = mean_and_se(returns[:, columns].mean(1))
        result[side] = [round(float(mean), 4), round(float(error), 4)]
    result["ms_per_episode"] = round(1000 * (time.process_time() - start) / episodes, 2)
    return result


def as_module(table: dict[str, dict[str, dict[str, object]]]) -> str:
    """The table as the module `marl/scripted/measured.py`."""
    lines = [
        '"""What the scripted policies returned in the real `mpe2`; written by `benchmarks/learning/anchors.py`."""',
        "",
        "from __future__ import annotations",
        "",
        "# environment -> script, or one for each side -> side -> (mean return per agent, standard error)",
        "MEASURED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {",
    ]
    for env_id, scripts in table.items():
        lines.append(f'    "{env_id}": {{')
        for name, result in scripts.items():
            values = {key: value for key, value in result.items() if isinstance(value, list)}
            inside = ", ".join(f'"{side}": ({value[0]}, {value[1]})' for side, value in values.items())
            lines.append(f'        "{name}": {{{inside}}},')
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def as_page(table: dict[str, dict[str, dict[str, object]]]) -> str:
    """The table and every script's rule as a page of documentation."""
    lines = [
        "# Scripted policies",
        "",
        "Written by `python -m benchmarks.learning.anchors`; "
        "played in the real `mpe2`, return per agent ± standard error.",
        "Play one with `python -m marl.evaluate --scripted NAME --env ID`, both sides of a competitive task with",
        "`NAME+NAME`, a run against one with `python -m marl.evaluate RUN --against NAME`. `random` and `noop` play",
        "any environment. A script marked * acts on more than each agent's own observations.",
    ]
    for env_id, scripts in table.items():
        lines += ["", f"## {env_id}", "", "| script | plays | rule |", "|---|---|---|"]
        for name, entry in TABLE[env_id].items():
            who = " and ".join(entry.plays) or "all"
            mark = "" if entry.script.decentralised else " *"
            lines.append(f"| `{name}`{mark} | {who} | {entry.rule} |")
        columns = [key for key, value in next(iter(scripts.values())).items() if isinstance(value, list)]
        lines += ["", f"| played | {' | '.join(columns)} | episodes |", "|---|" + "---|" * (len(columns) + 1)]
        for name, result in scripts.items():
            cells = []
            for column in columns:
                value = result[column]
                assert isinstance(value, list)
                cells.append(f"{value[0]:.2f} ± {value[1]:.2f}")
            lines.append(f"| `{name}` | {' | '.join(cells)} | {result['episodes']} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/anchors.json"), help="the file to write")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all numbers of episodes")
    parser.add_argument("--only", nargs="*", default=list(PLAN), help="these environments only")
    parser.add_argument("--table", type=Path, help="write the numbers as a Python module here")
    parser.add_argument("--page", type=Path, help="write the scripts and their numbers as Markdown here")
    options = parser.parse_args()
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for env_id in options.only:
        for name, planned in PLAN[catalogue.require_id(env_id)].items():
            episodes = max(2, round(planned * options.scale)) if options.scale else 0
            held = table.setdefault(catalogue.require_id(env_id), {})
            if held.get(name, {}).get("episodes", 0) >= episodes:
                continue
            held[name] = measure(env_id, name, episodes)
            options.out.write_text(json.dumps(table, indent=1) + "\n")
            print(env_id, name, held[name], flush=True)
    if options.table is not None:
        options.table.write_text(as_module(table))
    if options.page is not None:
        options.page.write_text(as_page(table))


if __name__ == "__main__":
    main()
