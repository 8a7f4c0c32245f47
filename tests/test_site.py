"""What the site does beyond MkDocs: formulas as MathML."""

from __future__ import annotations

import pytest

pytest.importorskip("latex2mathml", reason="of the extra docs")
from docs.formulas import drawn


def test_a_formula_by_hand() -> None:
    inline = drawn('<p>at <span class="arithmatex">\\(a &lt; b^2\\)</span></p>')
    block = drawn('<div class="arithmatex">\\[\\frac{1}{x}\\]</div>')
    assert inline.startswith('<p>at <span class="formula"><math') and inline.endswith("</math></span></p>")
    assert "<mo>&lt;</mo>" in inline.replace("&#x0003C;", "&lt;") and "<msup><mi>b</mi><mn>2</mn></msup>" in inline
    assert 'display="inline"' in inline and 'display="block"' in block
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mi>x</mi></mrow></mfrac>" in block


def test_code_is_left_alone() -> None:
    page = "<code>$x$ \\(y\\)</code>"
    assert drawn(page) == page


def test_an_unknown_command_is_named() -> None:
    with pytest.raises(ValueError, match=r"\\nonsense: not known to latex2mathml, in the formula x \\nonsense"):
        drawn('<span class="arithmatex">\\(x \\nonsense\\)</span>')
