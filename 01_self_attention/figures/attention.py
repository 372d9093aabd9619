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


d = Drawing(620, 420, "cat's query meets four keys; softmax makes shares of the scores; the values are mixed by them")
d.text(14, 82, "cat’s query", anchor="start", bold=True)
d.box(14, 96, 90, 34, pair(QUERY), fill=pale(ORANGE))
d.arrow([(104, 113), (158, 113)])
for label, y in (("scores", 166), ("shares", 228), ("values", 300)):
    d.text(146, y, label, size=13, anchor="end", colour="#666666")
for i, name in enumerate(NAMES):
    x = 162 + 116 * i
    d.text(x + 50, 30, name, bold=True)
    d.text(x + 50, 74, "key", size=13, colour="#666666")
    d.box(x, 96, 100, 34, pair(KEYS[i]), fill=pale(BLUE))
    d.text(x + 50, 166, f"{scores[i]:g}", size=16)
    high = 110 * shares[i]
    d.box(x + 30, 246 - high, 40, high, fill=BLUE, line=None, radius=0)
    d.text(x + 50, 262, f"{shares[i]:.3f}")
    d.box(x, 284, 100, 34, pair(VALUES[i]), fill=pale(GREEN))
    d.arrow([(x + 50, 318), (389, 368)], width=1 + 8 * shares[i], colour=GREEN)
d.box(304, 368, 170, 38, f"({out[0]:.3f}, {out[1]:.3f})".replace("-", "−"), fill=pale(GREEN, 0.5), bold=True)
d.text(294, 387, "the new cat", anchor="end", bold=True)
d.save(__file__)
