"""The online softmax as a window that moves over a row: the lesson's six keys, three tiles, and what is kept."""

from drawing import BLUE, GREEN, ORANGE, Drawing, pale

EXPS, VALUES = [1, 2, 4, 1, 2, 8], [2, 5, 1, 4, 2, 6]

d = Drawing(360, "A window of two keys moves over a row of six; beside it three numbers are kept: m, l and o")
d.text(74, 54, "exp(s)", anchor="end", colour="#666666")
d.text(74, 90, "value", anchor="end", colour="#666666")
for j in range(6):
    d.box(80 + 52 * j, 38, 52, 32, str(EXPS[j]), fill=pale(BLUE), radius=0)
    d.box(80 + 52 * j, 74, 52, 32, str(VALUES[j]), fill=pale(GREEN), radius=0)
d.text(214, 18, "one row, six keys; two arrive at a time", bold=True)

m, l, o = None, 0.0, 0.0
for tile in range(3):
    x, keys = 80 + 104 * tile, (2 * tile, 2 * tile + 1)
    new = max([m or 0] + [EXPS[j] for j in keys])  # the maximum of exp(s) is exp(m)
    factor = 0 if m is None else m / new
    l = l * factor + sum(EXPS[j] / new for j in keys)
    o = o * factor + sum(EXPS[j] / new * VALUES[j] for j in keys)
    d.line([(x + 4, 112), (x + 4, 124), (x + 100, 124), (x + 100, 112)], colour="#666666")
    d.arrow([(x + 52, 124), (x + 52, 166)])
    d.text(x + 60, 144, f"tile {tile + 1}", anchor="start")
    d.box(x + 10, 166, 84, 78, f"m = log {new}\nl = {l:g}\no = {o:g}", fill=pale(ORANGE, 0.35), size=14)
    if tile:
        d.arrow([(x - 10, 205), (x + 10, 205)], width=3)
        d.text(x, 268, f"l and o\ntimes {m}/{new}")
    m = new
d.text(74, 205, "what\nis kept", anchor="end", colour="#666666")
d.arrow([(340, 244), (340, 308)])
d.box(272, 308, 120, 40, f"o / l = {o / l:g}", fill=pale(ORANGE, 0.8), bold=True, size=16)
d.text(262, 328, "after the last tile", anchor="end")
d.save(__file__)
