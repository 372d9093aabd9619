"""What is in memory and what is on the chip: a tile of queries stays, keys and values pass by, scores are never stored."""

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Drawing, pale

d = Drawing(620, 430, "A tile of queries stays on the chip; tiles of keys and values pass by; the T x T scores are never in memory")
d.text(118, 22, "in memory: T × D each", bold=True)
d.text(430, 22, "on the chip", bold=True)
d.box(240, 40, 370, 310, fill="#FAFAFA", dash=True)


def matrix(x, y, name, colour, marked):
    d.box(x, y, 44, 280, fill=pale(colour, 0.12), radius=0)
    d.text(x + 22, y - 12, name, bold=True)
    d.box(x, y + marked, 44, 40, fill=pale(colour, 0.7), radius=0)


matrix(14, 70, "Q", ORANGE, 160)
matrix(68, 70, "K", BLUE, 80)
matrix(122, 70, "V", GREEN, 80)
matrix(176, 70, "O", PURPLE, 160)
for x in (90, 144):
    d.arrow([(x, 112), (x, 146)], width=3)
d.text(118, 372, "the window moves down K and V", size=13)
d.text(118, 390, "and stops at the diagonal", size=13)

d.box(256, 188, 76, 60, "Q\n32 rows", fill=pale(ORANGE, 0.7))
d.box(362, 60, 96, 40, "K tile", fill=pale(BLUE, 0.7))
d.box(362, 188, 96, 60, "S, then P\n32 × 64", fill=pale(GREY))
d.box(362, 290, 96, 40, "V tile", fill=pale(GREEN, 0.7))
d.box(498, 188, 100, 60, "O 32 × D\nm, l", fill=pale(PURPLE, 0.5))
d.arrow([(332, 218), (362, 218)])
d.arrow([(410, 100), (410, 188)])
d.text(418, 130, "Q Kᵀ", anchor="start", size=13)
d.arrow([(410, 290), (410, 248)])
d.arrow([(458, 218), (498, 218)])
d.text(478, 176, "+= P V", size=13)
d.text(548, 272, "× exp(m − m′)\nat each new m", size=13)
d.box(498, 56, 84, 84, "T × T\nscores", fill="#FFFFFF", line=GREY, dash=True, colour=GREY)
d.line([(494, 144), (586, 52)], colour="#D55E00", width=3)
d.text(430, 372, "The next tile of keys overwrites S. Nothing here", size=13)
d.text(430, 390, "depends on T; only at the end do O and", size=13)
d.text(430, 408, "lse = m + log l go back to memory.", size=13)
d.save(__file__)
