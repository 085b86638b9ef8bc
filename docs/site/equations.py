"""A hook of MkDocs that draws equations while the site is built, so that pages need no script for them.

pymdownx.arithmatex marks equations in a page; matplotlib draws each as SVG, with its source as the text for those who
cannot see it.
"""

import html
import io
import re
from functools import cache

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from mkdocs.structure.pages import Page

INLINE = re.compile(r'<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.+?)\\\]</div>', re.DOTALL)
ALIGNED = re.compile(r"\\begin\{aligned\}(.+)\\end\{aligned\}", re.DOTALL)
POINTS = 12.0


def on_page_content(content: str, *, page: Page, **_: object) -> str:
    """Draws the equations of a page."""
    content = BLOCK.sub(lambda found: block(html.unescape(found[1]).strip()), content)
    return INLINE.sub(lambda found: drawn(html.unescape(found[1]).strip()), content)


def block(source: str) -> str:
    """An equation of its own line, or several with aligned parts."""
    if aligned := ALIGNED.fullmatch(source):
        rows = [row.split("&") for row in re.split(r"\\\\\s", aligned[1] + " ") if row.strip()]
        cells = "".join(
            "<tr>"
            + "".join(f"<td>{drawn(part.strip()) if part.strip() else ''}</td>" for part in row)
            + "</tr>"
            for row in rows
        )
        return f'<table class="equations" role="math">{cells}</table>'
    return f'<p class="equation">{drawn(source)}</p>'


@cache
def drawn(source: str) -> str:
    """An SVG in the colour of the text that stands on the line of the text."""
    # Of LaTeX, matplotlib does not know these; they only change sizes.
    plain = "$" + re.sub(r"\\(big|textstyle)\b", "", " ".join(source.split())) + "$"
    with rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "svg.hashsalt": source}):
        font = FontProperties(size=POINTS)
        width, height, depth, *_ = MathTextParser("path").parse(plain, dpi=72, prop=font)
        width, height = width + 1.0, height + 1.0  # for what stands out of its box
        figure = Figure(figsize=(width / 72, height / 72))
        figure.text(0, (depth + 0.5) / height, plain, fontproperties=font)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", target.getvalue(), flags=re.DOTALL)
    style = f"vertical-align: {-depth - 0.5:.2f}pt; fill: currentColor"
    shown = f'<svg role="img" aria-label="{html.escape(source)}" style="{style}"'
    return svg[svg.index("<svg") :].replace("<svg", shown, 1)
