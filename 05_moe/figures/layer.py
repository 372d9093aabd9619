"""The layer: a router scores all experts, a token goes to two of them and to the shared one, and the answers are summed onto it."""

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Drawing, pale

d = Drawing(344, "x goes to a router, to 2 of 8 experts and to the shared expert; the weighted answers are added to x")
d.box(10, 16, 52, 40, "x", fill=pale(BLUE, 0.4), bold=True)
d.box(112, 16, 130, 40, "router: scores", fill=pale(PURPLE, 0.4))
d.arrow([(62, 36), (112, 36)])
d.arrow([(177, 56), (177, 100)])
d.text(190, 78, "2 of 8 experts are asked", anchor="start")
for i in range(8):
    chosen = i in (2, 5)
    d.box(76 + 40 * i, 100, 34, 44, f"{i}", fill=pale(GREEN, 0.7) if chosen else "#FFFFFF", line="#222222" if chosen else GREY, dash=not chosen, colour="#222222" if chosen else GREY)
for i, weight in ((2, "w = 0.6"), (5, "w = 0.4")):
    x = 93 + 40 * i
    d.arrow([(x, 144), (x, 240), (224 if i == 2 else 242, 270)], colour=GREEN, width=2.4)
    d.text(x + 8, 164, weight, anchor="start")
d.arrow([(46, 56), (46, 206), (62, 206)])
d.box(62, 184, 96, 44, "shared:\nevery token", fill=pale(ORANGE, 0.5))
d.arrow([(110, 228), (110, 288), (210, 288)])
d.arrow([(24, 56), (24, 306), (214, 306)])
d.text(30, 324, "x itself: the residual", anchor="start")
d.box(210, 268, 46, 52, "+", fill=pale(BLUE, 0.2), size=22, bold=True, radius=23)
d.arrow([(256, 294), (340, 294)])
d.text(298, 278, "y", size=15)
d.save(__file__)
