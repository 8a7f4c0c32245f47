"""The wheel beside the clock: its paragraph by hand, steps that fail are named, and the page repeats the record."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import wheel

SECONDS = {
    "build": 3.0, "venv": 4.0, "download": 90.0, "install": 20.0, "evaluate": 2.04, "communication": 8.0,
    "listen": 3.0, "page": 1.5, "train": 40.0,
}  # fmt: skip
RECORD = {"machine": "M", "python": "3.x", "seconds": SECONDS, "together": 34.54, "size_mb": 1.9}


def test_the_paragraph_by_hand() -> None:
    text = wheel.words(RECORD)
    assert "(1.9 MB)" in text and "(M, Python 3.x)" in text
    assert "everything downloaded (90.0), installing it with torch 20.0" in text
    assert "`marl.evaluate simple_reference --pretrained` 2.0," in text and "in a browser 1.5. Together" in text
    assert "**35 seconds**" in text and text.endswith("takes 40.0, with kernels to compile.")


def test_without_a_browser_no_page_is_claimed() -> None:
    text = wheel.words({**RECORD, "seconds": {**SECONDS, "page": None}})
    assert "browser" not in text and "--pretrained` 3.0. Together" in text


def test_what_a_newcomer_waits_for_leaves_out_download_build_and_training() -> None:
    assert set(wheel.TOGETHER) == {"install", "evaluate", "communication", "listen", "page"}
    assert set(wheel.COMMANDS) <= set(SECONDS)


def test_a_step_that_fails_is_named_with_its_words(tmp_path: Path) -> None:
    watch = wheel.Watch()
    with pytest.raises(wheel.Failed, match=r"(?s)listen: .* exit code 3:\nsaid\ntold"):
        words = "import sys; print('said'); sys.stderr.write('told'); exit(3)"
        watch.run("listen", [sys.executable, "-c", words], tmp_path)


def test_a_command_sees_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(wheel.ROOT))
    watch = wheel.Watch()
    assert str(wheel.ROOT) not in watch.run("evaluate", [sys.executable, "-c", "import sys; print(sys.path)"], tmp_path)
    first = watch.seconds["evaluate"]
    watch.add("evaluate", 2.0)
    assert first is not None and watch.seconds["evaluate"] == pytest.approx(first + 2.0)


def test_a_wheel_is_made_of_what_the_image_copies() -> None:
    image = (wheel.ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = " ".join(re.findall(r"^COPY (?!--)(.*)", image, re.M)).split()
    assert set(copied) - {"./"} == set(wheel.PARTS)
    ignored = (wheel.ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {word[1:] for word in ignored if word.startswith("!")} == set(wheel.PARTS)


def test_the_page_repeats_the_record() -> None:
    record = json.loads(wheel.RESULT.read_text(encoding="utf-8")) if wheel.RESULT.exists() else None
    assert wheel.words(record) in wheel.PAGE.read_text(encoding="utf-8")
    assert record is None or record["nice"] == 0, "measured at another priority than a user's"
