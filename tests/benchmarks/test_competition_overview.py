"""All competitive tasks in one table: its cells by hand, and the page against the records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.competition.matches import RESULTS
from benchmarks.competition.summary import overview
from marl.exploit.measure import exploited

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "competition.md"


def against(side: str, best: str, **verdicts: str) -> dict[str, object]:
    return {"side": side, "best": best, "scripts": {name: {"verdict": one} for name, one in verdicts.items()}}


def test_pairings_are_counted_by_the_best_script_and_exploitability_stands_beside_its_side(tmp_path: Path) -> None:
    """Three pairings of the hunters: the verdict beside the best script counts, those beside others do not."""
    played = {"seed": 7, "replicas": 2, "steps": 1_200_000, "mode": "greedy", "episodes": 2, "episodes_seed": 5}
    record = played | {
        "sides": {"hunters": ["a"], "prey": ["b"]},
        "against": [
            against("hunters", "fast", fast="level", slow="beaten"),
            against("hunters", "slow", fast="beaten", slow="not beaten"),
            against("hunters", "fast", fast="beaten", slow="beaten"),
            against("prey", "still", still="beaten"),
        ],
    }  # fmt: skip
    (tmp_path / "chase.json").write_text(json.dumps(record))
    # Two replicas, two episodes: prey loses 1 and 3 against fresh hunters, who gain as much.
    own_RE, faced_RE = np.array([[5.0, 5.0], [5.0, 5.0]]), np.array([[4.5, 3.5], [2.5, 1.5]])
    one = exploited("prey", ["a"], own_RE, faced_RE, -own_RE, -faced_RE)
    (tmp_path / "chase_exploitability.json").write_text(json.dumps(played | {"teams": [one.to_json()]}))
    (tmp_path / "chase_pool_exploitability.json").write_text(json.dumps({"teams": []}))
    _, _, hunters, prey = overview(tmp_path.glob("*.json")).split("\n")
    assert hunters == "| `chase` | 1,200k | 2 | hunters | 1 | 1 | 1 |  |"
    # The standard error of the mean 2 of 1 and 3 is 1; Student's 97.5 % quantile with one degree is 12.706.
    assert prey == "| `chase` | 1,200k | 2 | prey | 1 | 0 | 0 | 2.00 [-10.71, 14.71] |"
    (tmp_path / "chase.json").write_text(json.dumps(record | {"episodes_seed": 6}))
    assert "2.00" not in overview(tmp_path.glob("*.json")), "of these teams in other episodes"


def test_page_shows_the_records() -> None:
    table = overview(RESULTS.glob("*.json"))
    assert table + "\n" in PAGE.read_text(encoding="utf-8")
    assert f"## All tasks\n\n{table}\n" in (RESULTS / "README.md").read_text(encoding="utf-8")
