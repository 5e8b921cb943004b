"""SVG for a page: a drawing as an inline element that takes the page's font and colours, light or dark.

The colours of the palette become CSS variables (`--plot-loss`), ids that nobody refers to go, and so does the frame of a file
of its own. What is left is smaller by half. Texts are escaped where the SVG was made and stay as they are.
"""

from __future__ import annotations

import re
from html import escape

# Paper and ink, then what stands for a loss, for the floor below it, for shares of rows, for better and for worse.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1f2429",
    "muted": "#59636e",
    "rule": "#dde2e8",
    "loss": "#2b5fae",
    "floor": "#929dac",
    "rows": "#aebfdd",
    "good": "#1b7a59",
    "bad": "#bb4526",
}
DARK = {
    "paper": "#15181c",
    "ink": "#e4e7eb",
    "muted": "#9aa4af",
    "rule": "#2c323a",
    "loss": "#7ba6ee",
    "floor": "#77828f",
    "rows": "#3d5278",
    "good": "#4fc096",
    "bad": "#ee8466",
}
_NAMES = {colour: name for name, colour in LIGHT.items()}
_FRAME = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_STYLE = re.compile(r'style="([^"]*)"')
_ID = re.compile(r' id="([^"]*)"')
_LEVEL = re.compile(r' transform="rotate\(-?0 [^"]*\)"')  # a text that is not turned


def inline(drawn: str, name: str, title: str, description: str) -> str:
    """The `<svg>` element of a drawing, with its title and description for those who cannot see it."""
    text = _FRAME.sub("", drawn)
    start = text.index("<svg")
    head, body = text[start:].split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert box is not None
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = body.replace("xlink:href=", "href=")
    body = _ID.sub(lambda found: found[0] if found[1] in used else "", body)
    body = _STYLE.sub(lambda found: f'style="{_styled(found[1])}"', _LEVEL.sub("", body))
    # Only markup is made tight: texts hold no line break, and no angle bracket.
    body = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", body).replace(" />", "/>"))
    while (tight := re.sub(r"<g></g>|<defs></defs>|<g>(<g>[^<>]*</g>)</g>", r"\1", body)) != body:
        body = tight
    label = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    return (
        f'<svg viewBox="{box[0].split(chr(34))[1]}" width="{box[1]}" height="{box[2]}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">{label}{body}'
    )


def _styled(style: str) -> str:
    """A style with the page's colours and font."""
    style = re.sub(r"#[0-9a-f]{6}", lambda found: _variable(found[0]), style)
    style = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", style)  # as matplotlib before 3.10 wrote it
    return re.sub(r" ?font-family: [^;]*;?", "", style)


def _variable(colour: str) -> str:
    return f"var(--plot-{_NAMES[colour]})" if colour in _NAMES else colour
