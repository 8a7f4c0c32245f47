"""Writes docs/listen.html, the page of a pretrained pair, and its picture: `python -m docs.write_listen`.

The picture, docs/images/listen.png, needs Chromium; without it the page alone is written.
"""

from __future__ import annotations

import time
from pathlib import Path

from docs.browser import Browser, installed
from marl.listen.command import main

TASK = "simple_speaker_listener"
PAGE = Path(__file__).with_name("listen.html")
PICTURE = Path(__file__).parent / "images" / "listen.png"
_ROUNDS = (("ArrowRight",) * 4 + (" ",) * 21, ("ArrowUp",) * 2 + ("ArrowRight",) * 2 + (" ",) * 3)


def picture(browser: Browser) -> None:
    """The middle of the second round, on a small screen of a computer."""
    browser.open(PAGE, size=(1040, 900))
    for keys in _ROUNDS:
        browser.click(".go")
        for key in keys:
            browser.press(key)
    time.sleep(0.5)  # until the last step has been drawn
    browser.screenshot(PICTURE)


if __name__ == "__main__":
    if main([TASK, "--pretrained", "--out", str(PAGE)]):
        raise SystemExit(1)
    program = installed()
    if program is None:
        raise SystemExit(f"No Chromium: {PICTURE} is as it was. Install it (on Debian: apt-get install chromium).")
    with Browser(program) as browser:
        picture(browser)
    print(f"Picture: {PICTURE}")
