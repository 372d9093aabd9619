"""Heads without a transpose: the row of a token, cut into heads; attention per head; the heads side by side again."""

from drawing import BLUE, GREEN, ORANGE, PURPLE, Drawing, pale

COLOURS = [BLUE, GREEN, ORANGE, PURPLE]

d = Drawing(620, 400, "x [T, hidden] times W_q gives rows of H heads side by side; each head attends by itself; W_o mixes them")
d.text(64, 26, "x", bold=True)
d.cells(20, 40, 6, 1, 88, 24, fill=lambda r, c: "#EEEEEE")
d.text(64, 202, "[T, hidden]", size=13)
d.arrow([(114, 112), (168, 112)])
d.text(141, 98, "W_q", size=13)
d.text(270, 26, "q: one row a token, heads side by side", bold=True)
d.cells(174, 40, 6, 4, 48, 24, fill=lambda r, c: pale(COLOURS[c], 0.4))
for c in range(4):
    d.text(198 + 48 * c, 194, f"head {c}", size=13)
d.text(270, 212, "[T, H · D]; k and v likewise", size=13)
d.line([(366, 40), (384, 40), (384, 64), (366, 64)], colour="#666666")
d.text(390, 52, "a head’s next row is\nH · D numbers on", size=13, anchor="start")

for c in range(4):
    x = 40 + 140 * c
    d.box(x, 254, 116, 44, f"softmax over T,\nhead {c}", fill=pale(COLOURS[c], 0.4), size=13)
    d.arrow([(198 + 48 * c, 222), (x + 58, 254)], colour="#888888")
    d.arrow([(x + 58, 298), (154 + 48 * c, 336)], colour="#888888")
d.cells(130, 336, 1, 4, 48, 28, fill=lambda r, c: pale(COLOURS[c], 0.4))
d.text(226, 382, "heads of a token, side by side again", size=13)
d.arrow([(322, 350), (392, 350)])
d.text(355, 336, "W_o", size=13)
d.box(398, 336, 88, 28, "y", fill="#EEEEEE", bold=True)
d.text(496, 350, "mixes what they\nhave found", size=13, anchor="start")
d.save(__file__)
