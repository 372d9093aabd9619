"""Which part of A, B and C a block, a warp and a thread of the rung `registers` hold, and what it takes from where."""

from drawing import BLUE, GREEN, ORANGE, VERMILION, Drawing, pale

d = Drawing(620, 470, "Tiles of C = A B: a block has 128 x 128 numbers of C, a thread 8 x 8; they need rows of A and columns of B")


def matrix(x, y, w, h, name, at):
    d.box(x, y, w, h, radius=0, fill="#F4F4F4")
    d.text(*at, name, bold=True, size=17)


# B above C, A to its left: a number of C stands where its row of A and its column of B meet
matrix(230, 20, 200, 150, "B", (212, 36))
matrix(20, 190, 190, 200, "A", (36, 176))
matrix(230, 190, 200, 200, "C", (246, 206))
d.box(290, 20, 60, 150, radius=0, fill=pale(BLUE, 0.18), line=None)
d.box(20, 250, 190, 60, radius=0, fill=pale(GREEN, 0.18), line=None)
d.box(290, 96, 60, 16, radius=0, fill=pale(BLUE, 0.75))
d.box(124, 250, 16, 60, radius=0, fill=pale(GREEN, 0.75))
d.box(290, 250, 60, 60, radius=0, fill=pale(ORANGE, 0.5))
d.text(320, 280, "block", size=13)
d.arrow([(140, 280), (288, 280)], dash=True)
d.arrow([(320, 112), (320, 248)], dash=True)
d.text(360, 104, "8 × 128", anchor="start", size=13)
d.text(132, 328, "128 × 8", size=13)

d.text(534, 214, "128 × 128 numbers:\n16 × 16 threads", size=13)
d.cells(470, 244, 16, 16, 8, 8, fill=lambda r, c: VERMILION if (r, c) == (5, 10) else pale(ORANGE, 0.3), line="#999999", width=0.5)
d.text(534, 388, "one thread: 8 × 8", size=13, colour=VERMILION)
d.line([(350, 250), (470, 244)], dash=True, colour="#888888", width=1)
d.line([(350, 310), (470, 372)], dash=True, colour="#888888", width=1)
d.text(310, 416, "A thread has 8 × 8 numbers of C. For each step along k it takes 8 numbers", size=13)
d.text(310, 436, "of A and 8 of B from shared memory and does 64 multiply-adds with them.", size=13)
d.text(310, 456, "Fetched from memory: each number once for a block, not once for a thread.", size=13)
d.save(__file__)
