"""What is in memory and what is on the chip: a tile of queries stays, keys and values pass by, scores are never stored."""

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Drawing, pale

d = Drawing(446, "A tile of queries stays on the chip; tiles of keys and values pass by; the T x T scores are never in memory")
d.text(72, 20, "in memory:\nT × D each", bold=True)
d.text(270, 20, "on the chip", bold=True)
d.box(148, 42, 244, 316, fill="#FAFAFA", dash=True)


def matrix(x, y, name, colour, marked):
    d.box(x, y, 28, 284, fill=pale(colour, 0.12), radius=0)
    d.text(x + 14, y - 12, name, bold=True)
    d.box(x, y + marked, 28, 40, fill=pale(colour, 0.7), radius=0)


matrix(8, 74, "Q", ORANGE, 160)
matrix(42, 74, "K", BLUE, 80)
matrix(76, 74, "V", GREEN, 80)
matrix(110, 74, "O", PURPLE, 160)
for x in (56, 90):
    d.arrow([(x, 116), (x, 150)], width=3)

d.box(156, 188, 62, 60, "Q\n32 rows", fill=pale(ORANGE, 0.7))
d.box(236, 60, 76, 40, "K tile", fill=pale(BLUE, 0.7))
d.box(236, 188, 76, 60, "S, then P\n32 × 64", fill=pale(GREY))
d.box(236, 302, 76, 40, "V tile", fill=pale(GREEN, 0.7))
d.box(330, 186, 56, 64, "O\n32 × D\nm, l", fill=pale(PURPLE, 0.5))
d.arrow([(218, 218), (236, 218)])
d.arrow([(274, 100), (274, 188)])
d.text(282, 124, "Q Kᵀ", anchor="start")
d.arrow([(274, 302), (274, 248)])
d.arrow([(312, 218), (330, 218)])
d.text(332, 172, "+= P V")
d.text(336, 276, "× exp(m − m′)\nat each new m")
d.box(328, 60, 58, 58, "T × T\nscores", fill="#FFFFFF", line=GREY, dash=True, colour=GREY)
d.line([(324, 122), (390, 56)], colour="#D55E00", width=3)
for i, line in enumerate((
    "The window moves down K and V and stops at the",
    "diagonal. The next tile of keys overwrites S. Nothing",
    "here depends on T; only at the end do O and",
    "lse = m + log l go back to memory.",
)):
    d.text(8, 380 + 18 * i, line, anchor="start")
d.save(__file__)
