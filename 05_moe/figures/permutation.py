"""The lesson's three tokens: slots in the order of the tokens, rows sorted by expert, and the way back."""

from drawing import BLUE, ORANGE, VERMILION, Drawing, pale

EXPERT = [0, 1, 0, 2, 3, 0]  # of slots 0 .. 5
TOKEN = ["a", "a", "b", "b", "c", "c"]
COLOUR = {"a": BLUE, "b": ORANGE, "c": VERMILION}

order = sorted(range(6), key=lambda s: EXPERT[s])  # stable
row_of = {s: row for row, s in enumerate(order)}

d = Drawing(620, 400, "Six slots of three tokens are sorted by expert, multiplied as matrices, and collected again by their tokens")
for i, t in enumerate("abc"):
    d.box(64 + 176 * i, 14, 140, 32, f"token {t}", fill=pale(COLOUR[t], 0.45), bold=True)
for s in range(6):
    x = 54 + 88 * s
    d.arrow([(134 + 176 * (s // 2) + (-20 if s % 2 == 0 else 20), 46), (x + 36, 76)], colour="#888888")
    d.box(x, 76, 72, 40, f"slot {s}\nexpert {EXPERT[s]}", fill=pale(COLOUR[TOKEN[s]], 0.45), size=13)
left = [30 + 88 * r + 18 * EXPERT[order[r]] for r in range(6)]
for s in range(6):
    d.arrow([(90 + 88 * s, 116), (left[row_of[s]] + 36, 184)], colour=COLOUR[TOKEN[s]])
for r in range(6):
    s = order[r]
    d.box(left[r], 184, 72, 34, f"row {r}: {TOKEN[s]}", fill=pale(COLOUR[TOKEN[s]], 0.45), size=13)
for e, (first, end) in enumerate(((0, 3), (3, 4), (4, 5), (5, 6))):
    x, w = left[first] - 6, left[end - 1] + 78 - left[first] + 6
    d.box(x, 178, w, 92, fill="none", line="#222222", dash=True)
    d.text(x + w / 2, 246, f"expert {e}" if end - first < 2 else f"expert {e}: one matrix of three rows", size=13, bold=True)
for i, t in enumerate("abc"):
    for r in range(6):
        if TOKEN[order[r]] == t:
            d.arrow([(left[r] + 36, 270), (134 + 176 * i, 336)], colour=COLOUR[t])
    d.box(64 + 176 * i, 336, 140, 34, f"Σ w · rows of {t}", fill=pale(COLOUR[t], 0.45), size=14)
d.text(310, 388, "each token collects its own rows, in a fixed order", size=13)
d.save(__file__)
