"""TeX of the pages as MathML, when the site is built: browsers draw it by themselves, so that no script is asked for.

The repository's host draws the same `$...$` of the same Markdown. pymdownx.arithmatex finds the formulas, latex2mathml
translates them; a command that it does not know ends the build.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def drawn(page: str) -> str:
    """A page's HTML with MathML in the place of TeX.

    Raises:
        ValueError: a formula has a command that is not known.
    """

    def one(match: re.Match[str]) -> str:
        tex = html.unescape(match[2]).strip()
        display = "block" if match[1] == "div" else "inline"
        result = convert(tex, display=display)
        if unknown := re.findall(r"\\[a-zA-Z]+", result):
            raise ValueError(f"{', '.join(sorted(set(unknown)))}: not known to latex2mathml, in the formula {tex}")
        return f'<{match[1]} class="formula">{result}</{match[1]}>'

    return _FORMULA.sub(one, page)
