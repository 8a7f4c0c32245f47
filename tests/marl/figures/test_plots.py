"""Every figure is drawn, says in text what it shows in colour, and is the same picture each time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from envs.spec import Head
from marl.communication import figures as protocol_plots
from marl.communication.formation import FormationRow, Formed
from marl.communication.measures.information import Information, Undefined
from marl.communication.measures.signalling import ChannelReport, Coordination, Signalling, Usage
from marl.figures import plots
from marl.stats import MeanInterval

LINES = {"oracle": -7.46, "no communication": -15.37, "random": -39.98}


def words(figure) -> str:
    """All text of a figure."""
    figure.draw_without_rendering()
    result = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return " | ".join(text for text in result if text)


def picture(figure) -> np.ndarray:
    pixels = np.array(Image.open(io.BytesIO(plots.png(figure))).convert("RGB"))
    assert pixels.shape[1] >= 700 and pixels.std() > 5, "something is drawn, wide enough for a phone's screen"
    return pixels


def bar(mean, half=0.5):
    return MeanInterval(mean, mean - half, mean + half)


def protocol(table) -> ChannelReport:
    output = Information(0.92, 0.918, 0.9, 1.0, p=0.001, entropy=1.585, share=0.6, episodes=40)
    unknown = Undefined("not declared")
    meanings = ("goal 0", "goal 1", "goal 2") if table else ()
    return ChannelReport(
        "speaker_0 -> listener_0", "speaker_0", "listener_0", symbols=2, capacity_bits=1.0, exact=True, episodes=40,
        usage=Usage((0.5, 0.5), entropy_bits=1.0, used_share=1.0, stability=1.0, constant_symbol=None),
        signalling=Signalling(meanings, table, output if table else unknown, None, None, unknown, unknown, unknown),
        reception=None, speaker_consistency=unknown, instantaneous_coordination=Coordination(output, ""), influence={},
        input_norm=unknown,
    )  # fmt: skip


def formation_rows():
    shares = [[[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]], [[1.0, 0.0], [0.0, 1.0]]]
    return [
        FormationRow(
            step=1000 * (k + 1), replica=0, channel="speaker_0 -> listener_0", meanings=("goal 0", "goal 1"),
            shares=share, information=k / 2, p=0.01, team_return=-9.0, gain=None if k == 0 else 0.8, entropy_bits=1.0,
            synonyms=2.0 - k / 2, value=bar(k, 0.25), drift=None if k == 0 else bar(0.5, 0.25), formed=k / 2,
        )
        for k, share in enumerate(shares)
    ]  # fmt: skip


FORMED = Formed(1000, 2000, 2000, 3000, 0.0, 0.75, bar(0.75), 0.5)


def figures():
    generator = np.random.default_rng(0)
    steps = np.arange(1, 6) * 1000
    returns = generator.normal(size=(5, 4))
    would = generator.integers(5, size=(24, 3))
    rows = [("untouched", bar(-7.5)), ("shuffled", bar(-20.25))]
    matrix = np.array([[-7.0, -30.0], [-31.0, -8.0]])
    positions, landmarks = protocol_plots.field_positions(5), protocol_plots.field_layout(3)
    moves = generator.dirichlet(np.ones(5), size=(25, 3))
    return {
        "learning": plots.learning_figure(steps, returns, LINES, returns),
        "one replica": plots.learning_figure(steps, returns[:, :1], LINES),
        "comparison": plots.comparison_figure(
            {"1 run a": (steps, returns), "2 run b": (steps[:3], returns[:3] - 1)}, LINES
        ),
        "interventions": plots.interventions_figure(rows, LINES),
        "matrix": plots.matrix_figure(["a", "b"], matrix, matrix.T, ["speaker_0"], ["listener_0"]),
        "protocol": protocol_plots.protocol_figure(protocol([[10, 0], [0, 10], [0, 20]])),
        "usage": protocol_plots.protocol_figure(protocol([])),
        "timeline": protocol_plots.timeline_figure(
            title="episode 0", goals=[1] * 24, heard=[2] * 24, actions=would[:, 2], would_do=would,
            choices=protocol_plots.MOVES, used=[0, 1, 2], below=np.linspace(1, 0, 24),
            below_name="distance to goal"),
        "field": protocol_plots.action_field_figure(positions, moves, landmarks, [0, 1, 2]),
        "formation": protocol_plots.formation_figure(formation_rows(), FORMED),
    }  # fmt: skip


NAMES = ("learning", "one replica", "comparison", "interventions", "matrix", "protocol", "usage", "timeline", "field",
         "formation")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_and_drawn_alike(name):
    first, second = figures()[name], figures()[name]
    assert np.array_equal(picture(first), picture(second))
    pixels = plots.image(first)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_numbers_are_written_out():
    drawn = figures()
    learning = words(drawn["learning"])
    assert "oracle\n-7.46" in learning and "no communication\n-15.37" in learning and "random\n-39.98" in learning
    assert "share of replicas with a protocol (gain > 0.1)" in learning
    assert "untouched" in words(drawn["interventions"]) and "-20.25" in words(drawn["interventions"])
    matrix = words(drawn["matrix"])
    assert "-30.0" in matrix and "symbols relabelled" in matrix and "speaker_0 of" in matrix
    table = words(drawn["protocol"])
    assert "0.92 of 1.58 bits, p < 0.001" in table and "0.84–1.00" in table and "goal 2" in table
    assert "not declared" in words(drawn["usage"])
    timeline = words(drawn["timeline"])
    assert "if 2 were heard" in timeline and "distance to goal" in timeline
    assert "symbol 2" in words(drawn["field"])
    formation = words(drawn["formation"])
    assert all(name in formation for name in ("bits told", "drift since", "symbols for", "worth of"))


def test_names_of_choices():
    """Guard: seen failing when the number of choices was guessed from the greedy ones: any head of up to five choices
    had MPE's moves, and a choice above them broke."""
    assert protocol_plots.choice_names(Head("move", 5)) == ("stay", "left", "right", "down", "up")
    assert protocol_plots.choice_names(Head("move", 3)) == protocol_plots.choice_names(Head("choice_0", 3))
    figure = protocol_plots.timeline_figure(
        title="", goals=None, heard=[0, 1], actions=[6, 2], would_do=np.array([[1, 2], [3, 4]]),
        choices=protocol_plots.choice_names(Head("message", 7)), used=[0], below=[0.0, 1.0], below_name="reward",
    )  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "6", "2", "1", "3"]


def test_meanings_that_never_occurred_are_left_out():
    figure = protocol_plots.protocol_figure(protocol([[10, 0], [0, 0], [0, 20]]))
    assert "goal 1" not in words(figure) and "goal 2" in words(figure)


def test_long_names_of_a_matrix_are_listed_below():
    names = ["runs/simple_speaker_listener/20250101-120000_seed0", "0", "1", "2", "3"]
    matrix = np.arange(25.0).reshape(5, 5).tolist()
    drawn = plots.matrix_figure(names, matrix, matrix, ["speaker_0"], ["listener_0"])
    picture(drawn)
    assert "1: runs/simple_speaker_listener/20250101-120000_seed0\n2: 0" in words(drawn)


def test_missing_lines_and_a_task_without_anchors():
    text = words(plots.learning_figure([1, 2], np.zeros((2, 1)), {"oracle": None, "random": -5.0}))
    assert "oracle" not in text and "random\n-5.00" in text
    picture(plots.interventions_figure([("untouched", bar(3.0, 0.0))], {}))


def test_gaps_in_the_curves_stay_gaps():
    values = np.array([[1.0, 2.0], [np.nan, 3.0], [2.0, 4.0]])
    picture(plots.learning_figure([1, 2, 3], values, {}, values))


def test_layout_of_the_action_field():
    landmarks = protocol_plots.field_layout(4)
    assert landmarks[0] == pytest.approx([0, 0.65]) and landmarks[2] == pytest.approx([0, -0.65])
    positions = protocol_plots.field_positions(3)
    assert positions.shape == (9, 2) and positions.min() == -1 and positions.max() == 1


def test_the_table_of_a_forming_protocol(tmp_path):
    path = protocol_plots.write_formation_csv(formation_rows(), tmp_path / "f.csv")
    lines = path.read_text().splitlines()
    assert lines[0].startswith("step,replica,information_bits,p,team_return,gain,p(symbol 0 | goal 0)")
    assert lines[0].endswith(",entropy_bits,synonyms,value,value_low,value_high,drift,drift_low,drift_high,formed")
    assert lines[1] == "1000,0,0,0.01,-9,,0.5,0.5,0.5,0.5,1,2,0,-0.25,0.25,,,,0"
    assert lines[3] == "3000,0,1,0.01,-9,0.8,1,0,0,1,1,1,2,1.75,2.25,0.5,0.25,0.75,1"


def test_nothing_touches_pyplot():
    import subprocess
    import sys

    code = "import sys, marl.figures.plots, marl.communication.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
