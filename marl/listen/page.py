"""listen.html, put together from the files in web/ and from what `content` knows; what `python -m marl.listen` does."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marl.errors import UserError
from marl.figures.page import escape
from marl.listen.content import content
from marl.play.policy import Policy
from marl.runs.durable import replace_text

if TYPE_CHECKING:
    from marl.listen.command import CommandLine

LISTEN = "listen.html"
ANALYSIS = "communication.json"  # names the replica that the pictures show
SCRIPTS = ("world.js", "board.js", "words.js", "game.js")
"""In the order of their dependence."""


def write_listen(run_dir: Path | str, replica: int | None = None, episodes: int = 6, seed: int = 19) -> Path:
    """Write `listen.html` into a run directory and return its path.

    Args:
        run_dir: of a training run of simple_speaker_listener or simple_reference.
        replica: whom the reader plays with; None: the one that the run's pictures show, else the first.
        episodes, seed: the rounds, reset with `seed + i`.

    Raises:
        UserError: no such run or replica, another task, actors that remember, or a file that cannot be written.
    """
    run = Path(run_dir)
    return _write(run / LISTEN, _of_run(run, replica, episodes, seed))


def listen_html(policy: Policy, source: str, episodes: int, seed: int) -> str:
    """The page; the arguments are those of `content`."""
    told = content(policy, source, episodes, seed)
    web = resources.files(__package__) / "web"
    text = {name: (web / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *SCRIPTS)}
    parts = {
        "{{source}}": escape(source),
        "{{style}}": text["page.css"],
        "{{data}}": _json(told),
        "{{script}}": "\n".join(text[name] for name in SCRIPTS),
    }
    page = text["page.html"]
    pieces = []
    for mark, part in parts.items():  # in the order of the page: nothing that was put in is searched for marks
        before, found, page = page.partition(mark)
        assert found, mark
        pieces += [before, part]
    return "".join([*pieces, page])


def _json(data: Any) -> str:
    """JSON that may stand inside a script element, whatever its strings hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _of_run(run: Path, replica: int | None, episodes: int, seed: int) -> str:
    number = _shown(run) if replica is None else replica
    policy = Policy.load(run, number)
    return listen_html(policy, f"{_name(run)}, replica {number}", episodes, seed)


def _name(run: Path) -> str:
    return run.resolve().name


def _shown(run: Path) -> int:
    """The replica that the run's pictures show; 0 where none are drawn."""
    try:
        shown = json.loads((run / ANALYSIS).read_text(encoding="utf-8"))["shown"]
        return shown if isinstance(shown, int) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write(out: Path, text: str) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}. Choose another with --out.") from error
    return out


def written(options: CommandLine) -> str:
    """What `python -m marl.listen` prints, after the page that it writes.

    Raises:
        UserError: as `write_listen`, or there is no such pretrained policy.
    """
    if options.pretrained:
        name, replica = str(options.run), options.replica or 0
        policy = Policy.pretrained(name, replica)
        text = listen_html(policy, f"pretrained {name}, replica {replica}", options.episodes, options.seed)
        default = Path("runs") / "pretrained" / name / LISTEN
    else:
        text = _of_run(options.run, options.replica, options.episodes, options.seed)
        default = options.run / LISTEN
    out = _write(options.out or default, text)
    return f"Listen yourself: {out}\nOpen it in a browser; it needs no server."
