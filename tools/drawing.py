"""Drawings for the lessons: boxes, cells, arrows and text, as SVG in the look of the charts.

A script NN_name/figures/NAME.py makes NAME.svg beside it (make figures runs it):

    from drawing import BLUE, Drawing, pale

    d = Drawing(200, "what the picture says, for those who do not see it")
    d.box(20, 40, 120, 50, "router\\n[N, E]", fill=pale(BLUE))
    d.arrow([(140, 65), (240, 65)], "scores")
    d.save(__file__)

Coordinates are pixels from the upper left corner. Every drawing is 400 wide and its text at least 13 high: a telephone
of 320 pixels, where no page scrolls a picture, still shows it 10 high. What does not fit beside goes below. Like the
charts a drawing stands on white, so that it can be read on a dark page. Colours are those of
common/program/figures/style.gp. The same script makes the same bytes.
"""

import pathlib
from html import escape

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#888888"
INK, WHITE, HATCH = "#222222", "#FFFFFF", "url(#hatch)"
FONT = "DejaVu Sans,Helvetica,Arial,sans-serif"
MONO = "DejaVu Sans Mono,Menlo,Consolas,monospace"
WIDTH, SIZE, LINE = 400, 13, 1.25  # of a drawing; the text's height, and a line's in texts

HEAD = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" font-family="{font}">
<title>{title}</title>
<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect
width="7" height="7" fill="#FFFFFF"/><rect width="2.5" height="7" fill="#E69F00" fill-opacity="0.45"/></pattern></defs>
<rect width="{w}" height="{h}" fill="#FFFFFF"/>
"""


def pale(colour, share=0.25):
    """The colour on white: a ground on which dark text can be read."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - p) * share):02X}" for p in parts)


class Drawing:
    def __init__(self, height, title):
        self.parts = [HEAD.format(w=WIDTH, h=height, font=FONT, title=escape(title))]

    def box(self, x, y, w, h, text="", fill=WHITE, line=INK, width=1.5, dash=False, radius=4, **look):
        """A rectangle with lines of text in its middle. fill=HATCH: what is kept in a cache."""
        dashed = ' stroke-dasharray="5 4"' if dash else ""
        border = f'stroke="{line}" stroke-width="{width:g}"{dashed}' if line else 'stroke="none"'
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}" fill="{fill}" {border}/>\n'
        )
        if text:
            self.text(x + w / 2, y + h / 2, text, **look)

    def text(self, x, y, text, size=SIZE, anchor="middle", colour=INK, bold=False, mono=False, angle=0):
        """Lines of text around the height y. anchor: start, middle or end."""
        if size < SIZE:
            raise ValueError(f"drawing: {text!r} is {size} high, on a telephone too small; {SIZE} at least")
        lines = text.split("\n")
        turn = f' transform="rotate({angle:g} {x:g} {y:g})"' if angle else ""
        style = (' font-weight="bold"' if bold else "") + (f' font-family="{MONO}"' if mono else "")
        y += size * (0.36 - LINE * (len(lines) - 1) / 2)
        for i, line in enumerate(lines):
            self.parts.append(
                f'<text x="{x:g}" y="{y + i * LINE * size:g}" font-size="{size:g}" text-anchor="{anchor}" '
                f'fill="{colour}"{style}{turn} xml:space="preserve">{escape(line)}</text>\n'
            )

    def line(self, points, colour=INK, width=1.8, dash=False):
        at = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashed = ' stroke-dasharray="5 4"' if dash else ""
        self.parts.append(
            f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>\n'
        )

    def arrow(self, points, text="", colour=INK, width=1.8, dash=False, size=SIZE, above=9, anchor="middle"):
        """A line through the points with a head at the last; its text stands above the first stretch's middle."""
        (x0, y0), (x1, y1) = points[-2:]
        long = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        ux, uy = (x1 - x0) / long, (y1 - y0) / long
        bx, by = x1 - 9 * ux, y1 - 9 * uy
        self.line([*points[:-1], (bx, by)], colour, width, dash)
        self.parts.append(
            f'<polygon points="{x1:g},{y1:g} {bx - 4.5 * uy:g},{by + 4.5 * ux:g} {bx + 4.5 * uy:g},{by - 4.5 * ux:g}" '
            f'fill="{colour}"/>\n'
        )
        if text:
            (xa, ya), (xb, yb) = points[:2]
            self.text((xa + xb) / 2, (ya + yb) / 2 - above, text, size=size, colour=colour, anchor=anchor)

    def cells(self, x, y, rows, columns, w, h, fill=None, text=None, line=INK, width=1, **look):
        """A grid; fill(r, c) and text(r, c) say what is in a cell."""
        for r in range(rows):
            for c in range(columns):
                self.box(
                    x + c * w, y + r * h, w, h, text(r, c) if text else "",
                    fill=fill(r, c) if fill else WHITE, line=line, width=width, radius=0, **look,
                )

    def save(self, script):
        """Beside the script, under its name."""
        pathlib.Path(script).with_suffix(".svg").write_text("".join(self.parts) + "</svg>\n")
