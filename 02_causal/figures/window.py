"""The online softmax as a window that moves over a row: the lesson's six keys, three tiles, and what is kept."""

from drawing import BLUE, GREEN, ORANGE, Drawing, pale

EXPS, VALUES = [1, 2, 4, 1, 2, 8], [2, 5, 1, 4, 2, 6]

d = Drawing(620, 400, "A window of two keys moves over a row of six; beside it three numbers are kept: m, l and o")
d.text(84, 54, "exp(s)", anchor="end", size=13, colour="#666666")
d.text(84, 90, "value", anchor="end", size=13, colour="#666666")
for j in range(6):
    d.box(96 + 84 * j, 38, 84, 32, str(EXPS[j]), fill=pale(BLUE), radius=0)
    d.box(96 + 84 * j, 74, 84, 32, str(VALUES[j]), fill=pale(GREEN), radius=0)
d.text(348, 18, "one row, six keys; two arrive at a time", bold=True)

m, l, o = None, 0.0, 0.0
for tile in range(3):
    x, keys = 96 + 168 * tile, (2 * tile, 2 * tile + 1)
    new = max([m or 0] + [EXPS[j] for j in keys])  # the maximum of exp(s) is exp(m)
    factor = 0 if m is None else m / new
    l = l * factor + sum(EXPS[j] / new for j in keys)
    o = o * factor + sum(EXPS[j] / new * VALUES[j] for j in keys)
    d.line([(x + 4, 112), (x + 4, 124), (x + 164, 124), (x + 164, 112)], colour="#666666")
    d.arrow([(x + 84, 124), (x + 84, 172)])
    d.text(x + 92, 148, f"tile {tile + 1}", anchor="start", size=13)
    d.box(x + 14, 172, 140, 100, f"m = log {new}\nl = {l:g}\no = {o:g}", fill=pale(ORANGE, 0.35), size=16)
    if tile:
        d.arrow([(x - 14, 222), (x + 14, 222)], width=3)
        d.text(x, 296, f"l and o\ntimes {m}/{new}", size=13)
    m = new
d.text(84, 222, "what\nis kept", anchor="end", size=13, colour="#666666")
d.arrow([(516, 272), (516, 330)])
d.box(436, 330, 160, 40, f"o / l = {o / l:g}", fill=pale(ORANGE, 0.8), bold=True, size=16)
d.text(420, 350, "after the last tile", anchor="end")
d.save(__file__)
