"""Heads without a transpose: the row of a token, cut into heads; attention per head; the heads side by side again."""

from drawing import BLUE, GREEN, ORANGE, PURPLE, Drawing, pale

COLOURS = [BLUE, GREEN, ORANGE, PURPLE]

d = Drawing(436, "x [T, hidden] times W_q gives rows of H heads side by side; each head attends by itself; W_o mixes them")
d.text(38, 36, "x", bold=True)
d.cells(8, 52, 6, 1, 60, 22, fill=lambda r, c: "#EEEEEE")
d.text(44, 202, "[T, hidden]")
d.arrow([(68, 118), (112, 118)])
d.text(88, 104, "W_q")
d.text(200, 26, "q: one row a token,\nheads side by side", bold=True)
d.cells(114, 52, 6, 4, 44, 22, fill=lambda r, c: pale(COLOURS[c], 0.4), text=lambda r, c: f"{c}" if r == 5 else "")
d.text(202, 202, "[T, H · D]; k and v likewise")
d.line([(290, 52), (304, 52), (304, 74), (290, 74)], colour="#666666")
d.text(310, 88, "a head’s\nnext row is\nH · D\nnumbers on", anchor="start")

for c in range(4):
    x = 8 + 98 * c
    d.box(x, 250, 88, 60, f"softmax\nover T,\nhead {c}", fill=pale(COLOURS[c], 0.4))
    d.arrow([(136 + 44 * c, 214), (x + 44, 250)], colour="#888888")
    d.arrow([(x + 44, 310), (78 + 40 * c, 352)], colour="#888888")
d.cells(58, 352, 1, 4, 40, 28, fill=lambda r, c: pale(COLOURS[c], 0.4), text=lambda r, c: f"{c}")
d.text(138, 406, "heads of a token,\nside by side again")
d.arrow([(218, 366), (276, 366)])
d.text(244, 352, "W_o")
d.box(278, 352, 80, 28, "y", fill="#EEEEEE", bold=True)
d.text(318, 406, "mixes what they\nhave found")
d.save(__file__)
