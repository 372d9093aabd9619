"""The lesson's three tokens: slots in the order of the tokens, rows sorted by expert, and the way back."""

from drawing import BLUE, ORANGE, VERMILION, Drawing, pale

EXPERT = [0, 1, 0, 2, 3, 0]  # of slots 0 .. 5
TOKEN = ["a", "a", "b", "b", "c", "c"]
COLOUR = {"a": BLUE, "b": ORANGE, "c": VERMILION}

order = sorted(range(6), key=lambda s: EXPERT[s])  # stable
row_of = {s: row for row, s in enumerate(order)}

d = Drawing(424, "Six slots of three tokens are sorted by expert, multiplied as matrices, and collected again by their tokens")
for i, t in enumerate("abc"):
    d.box(16 + 130 * i, 12, 108, 32, f"token {t}", fill=pale(COLOUR[t], 0.45), bold=True)
for s in range(6):
    x = 8 + 65 * s
    d.arrow([(70 + 130 * (s // 2) + (-20 if s % 2 == 0 else 20), 44), (x + 30, 76)], colour="#888888")
    d.box(x, 76, 60, 40, f"slot {s}\nexpert {EXPERT[s]}", fill=pale(COLOUR[TOKEN[s]], 0.45))
left = [10 + 57 * r + 13 * EXPERT[order[r]] for r in range(6)]
for s in range(6):
    d.arrow([(38 + 65 * s, 116), (left[row_of[s]] + 25, 184)], colour=COLOUR[TOKEN[s]])
for r in range(6):
    s = order[r]
    d.box(left[r], 184, 50, 40, f"row {r}\n{TOKEN[s]}", fill=pale(COLOUR[TOKEN[s]], 0.45))
for e, (first, end) in enumerate(((0, 3), (3, 4), (4, 5), (5, 6))):
    x, w = left[first] - 6, left[end - 1] + 56 - left[first] + 6
    d.box(x, 178, w, 96, fill="none", line="#222222", dash=True)
    d.text(x + w / 2, 250, f"expert\n{e}" if end - first < 2 else f"expert {e}: one\nmatrix of three rows", bold=True)
for i, t in enumerate("abc"):
    for r in range(6):
        if TOKEN[order[r]] == t:
            d.arrow([(left[r] + 25, 274), (70 + 130 * i, 350)], colour=COLOUR[t])
    d.box(12 + 130 * i, 350, 116, 34, f"Σ w · rows of {t}", fill=pale(COLOUR[t], 0.45))
d.text(200, 406, "each token collects its own rows, in a fixed order")
d.save(__file__)
