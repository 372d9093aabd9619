"""Attention as *cat* does it: one query against four keys, and the mean of the values by the shares."""

import math

from drawing import BLUE, GREEN, ORANGE, Drawing, pale

NAMES, KEYS, VALUES = ["the", "cat", "sat", "purring"], [(0, 0), (1, 0), (0, 1), (1, 1)], [(0, 0), (1, 1), (1, -1), (2, 0)]
QUERY = (0, 1)

scores = [QUERY[0] * k[0] + QUERY[1] * k[1] for k in KEYS]
exps = [math.exp(s / math.sqrt(2)) for s in scores]
shares = [e / sum(exps) for e in exps]
out = [sum(s * v[c] for s, v in zip(shares, VALUES)) for c in (0, 1)]


def pair(p):
    return "({:g}, {:g})".format(*p).replace("-", "−")


d = Drawing(398, "cat's query meets four keys; softmax makes shares of the scores; the values are mixed by them")
d.text(166, 24, "cat’s query", anchor="end", bold=True)
d.box(181, 8, 90, 32, pair(QUERY), fill=pale(ORANGE))
for label, y in (("keys", 109), ("scores", 156), ("shares", 210), ("values", 289)):
    d.text(54, y, label, anchor="end", colour="#666666")
for i, name in enumerate(NAMES):
    x = 62 + 84 * i
    d.arrow([(226, 40), (x + 38, 84)], colour="#888888")
    d.box(x, 84, 76, 50, fill=pale(BLUE))
    d.text(x + 38, 100, name, bold=True)
    d.text(x + 38, 119, pair(KEYS[i]))
    d.text(x + 38, 156, f"{scores[i]:g}", size=15)
    high = 110 * shares[i]
    d.box(x + 20, 236 - high, 36, high, fill=BLUE, line=None, radius=0)
    d.text(x + 38, 250, f"{shares[i]:.3f}")
    d.box(x, 273, 76, 32, pair(VALUES[i]), fill=pale(GREEN))
    d.arrow([(x + 38, 305), (226, 352)], width=1 + 8 * shares[i], colour=GREEN)
d.box(146, 352, 160, 36, f"({out[0]:.3f}, {out[1]:.3f})".replace("-", "−"), fill=pale(GREEN, 0.5), bold=True)
d.text(138, 370, "the new cat", anchor="end", bold=True)
d.save(__file__)
