"""Which part of A, B and C a block, a warp and a thread of the rung `registers` hold, and what it takes from where."""

from drawing import BLUE, GREEN, ORANGE, VERMILION, Drawing, pale

d = Drawing(566, "Tiles of C = A B: a block has 128 x 128 numbers of C, a thread 8 x 8; they need rows of A and columns of B")


def matrix(x, y, w, h, name, at):
    d.box(x, y, w, h, radius=0, fill="#F4F4F4")
    d.text(*at, name, bold=True, size=17)


# B above C, A to its left: a number of C stands where its row of A and its column of B meet
matrix(172, 12, 160, 116, "B", (156, 26))
matrix(12, 148, 140, 160, "A", (26, 132))
matrix(172, 148, 160, 160, "C", (186, 164))
d.box(220, 12, 48, 116, radius=0, fill=pale(BLUE, 0.18), line=None)
d.box(12, 196, 140, 48, radius=0, fill=pale(GREEN, 0.18), line=None)
d.box(220, 70, 48, 14, radius=0, fill=pale(BLUE, 0.75))
d.box(92, 196, 14, 48, radius=0, fill=pale(GREEN, 0.75))
d.box(220, 196, 48, 48, radius=0, fill=pale(ORANGE, 0.5))
d.text(244, 220, "block")
d.arrow([(106, 220), (218, 220)], dash=True)
d.arrow([(244, 84), (244, 194)], dash=True)
d.text(276, 77, "8 × 128", anchor="start")
d.text(99, 260, "128 × 8")

d.text(172, 356, "128 × 128 numbers:\n16 × 16 threads", anchor="end")
d.text(172, 428, "one thread: 8 × 8", anchor="end", colour=VERMILION)
d.line([(220, 244), (188, 328)], dash=True, colour="#888888", width=1)
d.line([(268, 244), (316, 328)], dash=True, colour="#888888", width=1)
d.cells(188, 328, 16, 16, 8, 8, fill=lambda r, c: VERMILION if (r, c) == (12, 2) else pale(ORANGE, 0.3), line="#999999", width=0.5)
for i, line in enumerate((
    "A thread has 8 × 8 numbers of C. For each step along",
    "k it takes 8 numbers of A and 8 of B from shared",
    "memory and does 64 multiply-adds with them. Fetched",
    "from memory: each number once for a block, not once",
    "for a thread.",
)):
    d.text(12, 478 + 18 * i, line, anchor="start")
d.save(__file__)
