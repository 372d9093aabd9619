"""The layer: a router scores all experts, a token goes to two of them and to the shared one, and the answers are summed onto it."""

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Drawing, pale

d = Drawing(620, 330, "x goes to a router, to 2 of 8 experts and to the shared expert; the weighted answers are added to x")
d.box(14, 130, 60, 40, "x", fill=pale(BLUE, 0.4), bold=True)
d.box(128, 40, 104, 52, "router:\nscores", fill=pale(PURPLE, 0.4))
d.arrow([(74, 140), (100, 140), (100, 66), (128, 66)])
for i in range(8):
    x = 262 + 43 * i
    chosen = i in (2, 5)
    d.box(x, 40, 38, 52, f"{i}", fill=pale(GREEN, 0.7) if chosen else "#FFFFFF", line="#222222" if chosen else GREY, dash=not chosen, colour="#222222" if chosen else GREY)
d.text(432, 20, "8 experts, 2 of them are asked", size=14)
d.arrow([(232, 66), (262, 66)])
for i, weight in ((2, "w = 0.6"), (5, "w = 0.4")):
    x = 281 + 43 * i
    d.arrow([(x, 92), (x, 236), (392 if i == 2 else 408, 262)], colour=GREEN, width=2.4)
    d.text(x + 8, 112, weight, size=13, anchor="start")
d.arrow([(74, 150), (128, 150)])
d.box(128, 130, 178, 40, "shared: every token", fill=pale(ORANGE, 0.5), size=13)
d.arrow([(217, 170), (217, 282), (382, 282)])
d.arrow([(44, 170), (44, 300), (382, 300)])
d.text(130, 316, "x itself: the residual", size=13)
d.box(382, 262, 44, 52, "+", fill=pale(BLUE, 0.2), size=22, bold=True, radius=22)
d.arrow([(426, 288), (520, 288)])
d.text(474, 272, "y", size=15)
d.save(__file__)
