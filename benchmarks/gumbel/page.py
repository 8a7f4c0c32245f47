"""Draws the classic figures of Gumbel noise, measures every gradient estimator, and times them.

    python -m benchmarks.gumbel                 everything: numbers.json and figures into benchmarks/results/gumbel/,
                                                and the tables of docs/gumbel.md
    python -m benchmarks.gumbel --figures       the figures and tables again, from the numbers.json that is there
    python -m benchmarks.gumbel --only vae      this part alone, into the numbers.json that is there
    python -m benchmarks.gumbel --device cuda   also times on a GPU
    python -m benchmarks.gumbel --search 9000000   finds the network whose table is nearest to the reference (minutes)

Every number but the timings is a function of fixed seeds. About 70 seconds of CPU time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import scipy
import torch

from benchmarks.gumbel import estimators, facts, vae

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gumbel"
DOCUMENT = ROOT / "docs" / "gumbel.md"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else []
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }


def meta(command: str) -> dict[str, Any]:
    """Command, date and machine."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"command": command, "date": date, "machine": machine()}


PARTS: dict[str, Callable[[], Any]] = {
    "seven_classes": facts.seven_classes,
    "direct": facts.direct,
    "maxima": facts.maxima,
    "gumbel_moments": facts.gumbel_moments,
    "proof": facts.proof,
    "gaussian": facts.gaussian,
    "vae": vae.measure,
    "temperature": facts.temperature,
    "dead_rows": facts.dead_rows,
    "estimators": estimators.table,
    "spread": estimators.spread,
    "against_temperature": estimators.against_temperature,
}
"""What follows from fixed seeds; "timing" comes on top."""


def tables(numbers: dict[str, Any]) -> dict[str, str]:
    """The generated tables of docs/gumbel.md, by name, as Markdown."""
    results = {
        "seven_classes": _seven_classes_table(numbers["seven_classes"]),
        "direct": _direct_table(numbers["direct"]),
        "vae": _vae_table(numbers["vae"]),
        "estimators": _estimator_table(numbers),
        "timing": _timing_table(numbers["timing"]),
    }
    return {name: "\n".join(lines) for name, lines in results.items()}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _seven_classes_table(result: dict[str, Any]) -> list[str]:
    def shares(values: Sequence[float]) -> list[str]:
        return [f"{p:.4f}" for p in values]

    lines = [_row("noise", "variance", *(str(k) for k in range(1, 8)), "total variation")]
    lines += ["|---" * 10 + "|", _row("(wanted)", "", *shares(result["probabilities"]), "")]
    for name, row in result["noises"].items():
        lines.append(_row(name, f"{row['variance']:.3f}", *shares(row["exact"]), f"{abs(row['total_variation']):.3f}"))
    return lines


def _direct_table(result: dict[str, Any]) -> list[str]:
    lines = [_row("way", *(str(k) for k in range(1, 8)), "total variation", "chi-square p"), "|---" * 10 + "|"]
    for name, row in result["ways"].items():
        shares = (f"{p:.4f}" for p in row["sampled"])
        lines.append(_row(name, *shares, f"{row['total_variation']:.4f}", f"{row['chi_square_p']:.2f}"))
    return lines


def _vae_table(result: dict[str, Any]) -> list[str]:
    heads = ("gradient", "ELBO", "log-likelihood", "updates to the ELBO of the last row")
    lines = [_row(*heads, "variance, first update", "variance, last update"), "|---" * 6 + "|"]
    for arm, row in result["arms"].items():
        reached = vae.updates_to(result, arm, vae.mean(result["arms"][vae.ARMS[-1]]["elbo"][-1]))
        shown = (f"{vae.mean(row['elbo'][-1]):.3f}", f"{vae.mean(row['log_evidence']):.3f}", f"{reached:,}")
        variances = (f"{vae.mean(by_arm[arm]):.2f}" for by_arm in result["gradient_variance"].values())
        lines.append(_row(arm, *shown, *variances))
    return lines


def _estimator_table(numbers: dict[str, Any]) -> list[str]:
    many = numbers["spread"]["networks"]
    heads = ("estimator", "bias", "sd", "reference bias", "reference sd")
    lines = [_row(*heads, f"bias, {many} networks", f"sd, {many} networks"), "|---" * 7 + "|"]
    for name, row in numbers["estimators"]["rows"].items():
        bias, sd = estimators.REFERENCE[name]
        spread = numbers["spread"]["rows"][name]
        quartiles = [f"{s[1]:.2f} ({s[0]:.2f} to {s[2]:.2f})" for s in (spread["bias"], spread["sd"])]
        measured = (row.get("exact_bias", row["relative_bias"]), row.get("exact_sd", row["relative_sd"]))
        lines.append(_row(name, f"{measured[0]:.3f}", f"{measured[1]:.2f}", bias, sd, *quartiles))
    return lines


def _timing_table(result: dict[str, Any]) -> list[str]:
    devices = list(result)
    lines = [_row("call", *(f"{device}, K = {k}" for device in devices for k in (5, 10)))]
    lines.append("|---" * (1 + 2 * len(devices)) + "|")
    for name in result["cpu"]["rows"]:
        lines.append(_row(name, *(f"{result[d]['rows'][name][k]:.0f}" for d in devices for k in ("5", "10"))))
    return lines


def write_tables(text: str, numbers: dict[str, Any]) -> str:
    """The document with every block between `<!-- table: NAME -->` and `<!-- end -->` replaced."""
    for name, table in tables(numbers).items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


def draw(numbers: dict[str, Any], folder: Path) -> None:
    """Every figure as a PNG file."""
    from matplotlib import pyplot as plt

    from benchmarks.gumbel.figures import FIGURES, STYLE

    for name, figure in FIGURES.items():
        with plt.rc_context(STYLE):
            drawn = figure(numbers)
            drawn.savefig(folder / f"{name}.png", metadata={"Software": None})
            plt.close(drawn)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gumbel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figures", action="store_true", help="draw again from the stored numbers")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "timing"], default=[], metavar="PART", help="%(choices)s")
    parser.add_argument("--device", default="cpu", help="a second device to time on, such as cuda")
    parser.add_argument("--search", type=int, default=0, metavar="COUNT", help="look for the reference's network")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measures, stores, draws and prints."""
    options = _options(arguments)
    torch.set_num_threads(1)
    if options.search:
        number, difference = estimators.closest_network(options.search)
        print(f"network {number}: enumerable entries within {difference:.1%} of the reference")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path, command = options.out / "numbers.json", " ".join(["python -m benchmarks.gumbel", *arguments])
    stored = options.figures or options.only
    numbers = json.loads(path.read_text()) if stored else {"meta": meta(command)}
    parts = options.only or ([] if options.figures else [*PARTS, "timing"])
    for part in parts:
        if part == "timing":
            numbers[part] = {d: estimators.timing(d) | meta(command) for d in dict.fromkeys(["cpu", options.device])}
        else:
            numbers[part] = PARTS[part]()
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    draw(numbers, options.out)
    if options.out == RESULTS and DOCUMENT.exists():
        DOCUMENT.write_text(write_tables(DOCUMENT.read_text(), numbers))
    for name, table in tables(numbers).items():
        print(f"\n{name}\n{table}")
