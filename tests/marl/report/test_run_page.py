"""The report: one page that needs nothing else, whatever is missing from the run directory."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from marl.config.resolve import to_yaml
from marl.config.schema import Config
from marl.errors import UserError
from marl.figures import page, plots
from marl.report import command
from marl.report import run_page as report
from marl.runs.logs import records
from marl.stats import MeanInterval

ENV = "simple_speaker_listener"


def make_run(path: Path, replicas: int = 3, evaluations: int = 5, full: bool = True, **changes) -> Path:
    """A run directory as a training leaves it, with invented numbers."""
    path.mkdir(parents=True)
    config = Config(env=ENV, num_replicas=replicas, total_steps=1000 * max(evaluations, 1), **changes)
    (path / "config.yaml").write_text(to_yaml(config))
    lines = []
    for k in range(1, evaluations + 1):
        value = -8.0 - 20.0 / k
        line = {"step": 1000 * k, "time/seconds": 3.0 * k, "evaluation/return": value}
        line["evaluation/gain"] = (value + 15.37) / 7.91
        for name in ("return", "gain"):
            for r in range(replicas if replicas > 1 else 0):
                line[f"evaluation/{name}/replica_{r}"] = line[f"evaluation/{name}"] + 0.1 * r
        lines += [json.dumps(line), json.dumps({"step": 1000 * k, "loss/critic": 1.0})]
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9')
    if full:
        one = {"return": {"speaker_0": {"mean": -8.1, "se": 0.1}, "listener_0": {"mean": -8.1, "se": 0.1}}}
        evaluation = {
            "env": ENV, "episodes": 1000, "seed": 0, "mode": "greedy", "mean_return": -8.1, "score": 0.98, "gain": 0.92,
            "replicas": [{**one, "mean_return": -8.1}] * replicas, "anchors": {},
        }  # fmt: skip
        (path / "evaluation.json").write_text(json.dumps(evaluation))
        spoken = "a language that is spoken and listened to"
        text = "what <b>it</b> says & means"
        communication = {"text": text, "replicas": [{"summary": spoken}] * replicas}
        (path / "communication.json").write_text(json.dumps(communication))
        (path / "versions.json").write_text(json.dumps({"python": "3.11", "torch": "2.13"}))
        (path / "figures").mkdir()
        figure = plots.interventions_figure([("untouched", MeanInterval(1, 0, 2))], {})
        for name in ("interventions", "protocol_speaker_0_listener_0", "other"):
            plots.save(figure, path / "figures" / f"{name}.png")
        (path / "episodes.gif").write_bytes(base64.b64decode("R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="))
    return path


class Reader(HTMLParser):
    """Tags, links to anything outside and the text of a page; checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.images = 0
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.images += tag == "img"
        named = dict(attrs)
        self.sources += [named[key] for key in ("src", "href", "srcset", "data") if key in named]
        assert tag not in ("script", "iframe", "link", "object"), tag
        if tag == "img":
            assert named["alt"], "a picture without words for it"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_a_whole_report_stands_alone(tmp_path):
    run = make_run(tmp_path / "runs" / "a")
    out = report.write_report(run)
    assert out == run / "report.html"
    html = out.read_text()
    read = Reader(html)
    assert all(source.startswith("data:image/") for source in read.sources)
    assert "http" not in html and "url(" not in html and "@import" not in html
    assert 'name="viewport"' in html
    assert read.images == 5, "learning curve, three figures, one GIF"
    for expected in (
        "3 replicas, 5,000 steps each: a language that is spoken and listened to.", "-8.10", "0.98", "0.92", "15 s",
        "what <b>it</b> says & means", "-8.10 ± 0.10", "1000 episodes from seed 0, greedy", "oracle", "batch_size: 512",
        "torch", "2.13", f"python run.py --config {run}/config.yaml --run-dir NEW_DIRECTORY", "marl.communication",
        "How often each symbol is said for each goal, with 95 % intervals (speaker_0_listener_0)",
    ):  # fmt: skip
        assert expected in read.text, expected
    first, second = (read.text.index(caption) for caption in ("How often each symbol", "Return when the messages"))
    assert first < second, "the protocol comes before the interventions"


def test_a_run_that_has_just_begun(tmp_path):
    run = make_run(tmp_path / "a", replicas=1, evaluations=0, full=False)
    read = Reader(report.write_report(run).read_text())
    assert "No evaluation was recorded" in read.text and "Scores" not in read.text and read.images == 0
    (run / "metrics.jsonl").unlink()
    Reader(report.write_report(run).read_text())


def test_a_competitive_task_shows_its_sides(tmp_path):
    run = make_run(tmp_path / "a")
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation |= {"competitive": True, "score": None, "gain": None, "sides": {"eve": {"mean": -25.5, "se": 0.1}}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    read = Reader(report.write_report(run).read_text())
    assert "return of eve" in read.text and "-25.50" in read.text and "return per agent</span>" not in read.text


def test_damaged_files_are_left_out(tmp_path):
    run = make_run(tmp_path / "a")
    for name in ("evaluation.json", "communication.json", "versions.json"):
        (run / name).write_text('{"replicas": ')
    (run / "metrics.jsonl").write_text('nonsense\n[1]\n{"step": "x"}\n{"step": 5, "evaluation/return": null}\n')
    read = Reader(report.write_report(run).read_text())
    assert "No evaluation was recorded" in read.text


def test_comparison(tmp_path, capsys, monkeypatch):
    first = make_run(tmp_path / "x" / "a")
    second = make_run(tmp_path / "x" / "b", replicas=1, evaluations=3, seed=7)
    out = tmp_path / "compared.html"
    assert command.main([str(first), str(second), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1 x/a +-11\.90 \[-12\.15, -11\.65\] +0\.53 \[.*\] +100% +5,000 +3 +15 s", printed)
    assert re.search(r"2 x/b +-14\.67 +0\.09 +0% +3,000 +1 +9 s", printed)
    read = Reader(out.read_text())
    assert read.images == 1 and "num_replicas" in read.text and "seed" in read.text
    assert "batch_size" not in read.text, "only what differs"
    assert "-11.90 [-12.15, -11.65]" in read.text
    assert "it says nothing about the next seed" in read.text


def test_one_run_on_the_command_line_and_bad_input(tmp_path, capsys):
    run = make_run(tmp_path / "a")
    assert command.main([str(run)]) == 0
    assert (run / "report.html").exists()
    assert command.main([str(tmp_path / "nowhere")]) == 2
    output = capsys.readouterr().err
    assert "nowhere is no run directory: config.yaml cannot be read" in output
    assert command.main([str(run), "--out", str(tmp_path / "no" / "such" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (run / "config.yaml").write_text("env: [")
    with pytest.raises(UserError, match="is not a configuration"):
        records.read_run(run)


def test_series_of_replicas(tmp_path):
    run = records.read_run(make_run(tmp_path / "a"))
    steps, values = run.series("evaluation/return")
    assert steps.tolist() == [1000, 2000, 3000, 4000, 5000] and values.shape == (5, 3)
    assert values[0] == pytest.approx([-28.0, -27.9, -27.8])
    assert run.series("no/such")[1].shape == (0, 1) and run.last("no/such") is None
    assert run.last("loss/critic") == 1.0
    single = records.read_run(make_run(tmp_path / "b", replicas=1))
    assert single.series("evaluation/return")[1].shape == (5, 1)
    assert np.isfinite(single.series("evaluation/gain")[1]).all()


def test_pages_escape_what_they_are_given():
    text = page.page("<t>", page.table(["<h>"], [["<c>"]]), page.folded("<s>", page.verbatim("<v>")))
    assert "&lt;t&gt;" in text and "&lt;h&gt;" in text and "&lt;c&gt;" in text and "&lt;v&gt;" in text
    assert page.section("empty", "", "") == "" and page.cards({}) == ""
    Reader(text)


def test_durations():
    assert [report._duration(s) for s in (5, 600, 10_000)] == ["5 s", "10 min", "2.8 h"]
