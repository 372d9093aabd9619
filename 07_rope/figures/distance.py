"""q and k turned by their places: both arrows move on, the angle between them stays."""

import math

from drawing import BLUE, GREY, VERMILION, Drawing, pale

TURN, ACROSS = 35, 70  # degrees a place; what q is ahead of k by, when both are at place 0
R = 68
d = Drawing(230, "A query and a key two places apart, early in the text and later: the angle between them is the same")


def arrow(x, y, degrees, colour, name, length=R):
    a = math.radians(degrees)
    at = (x + length * math.cos(a), y - length * math.sin(a))
    d.arrow([(x, y), at], colour=colour, width=3)
    d.text(x + (length + 16) * math.cos(a), y - (length + 16) * math.sin(a), name, colour=colour, bold=True, size=15)


for x, k_at in ((102, 0), (298, 3)):
    y, q_at = 98, k_at + 2
    k, q = TURN * k_at, ACROSS + TURN * q_at - 90
    points = [(x + R * math.cos(math.radians(t)), y - R * math.sin(math.radians(t))) for t in range(0, 361, 6)]
    d.line(points, colour="#CCCCCC", width=1)
    arc = [(x + 28 * math.cos(math.radians(t)), y - 28 * math.sin(math.radians(t))) for t in range(k, q + 1, 2)]
    d.line(arc, colour=GREY, width=2)
    arrow(x, y, k, VERMILION, "k")
    arrow(x, y, q, BLUE, "q")
    d.text(x, 202, f"k at place {k_at},\nq at place {q_at}")
d.save(__file__)
