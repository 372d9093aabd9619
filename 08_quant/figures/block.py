"""Eight weights on INT4's steps: with a scale of 1/4, and with one number of 112 among them."""

from drawing import BLUE, GREY, INK, VERMILION, Drawing, pale

W = (1.125, -0.25, 0.5, -1.75, 0.0625, 0.875, -0.625, 0.375)
LEFT, RIGHT = 24, 376
d = Drawing(318, "Weights rounded to the steps of their block: a fine scale moves each a little, a coarse one sends all but the largest to 0")


def axis(y, step, most, title, shown, label):
    def x_of(v):
        return LEFT + (RIGHT - LEFT) * (v + most) / (2 * most)

    d.text(12, y - (86 if "\n" in title else 78), title, anchor="start", bold=True)
    d.line([(LEFT - 8, y), (RIGHT + 8, y)], width=1.2)
    for k in range(-7, 8):
        d.line([(x_of(k * step), y - 6), (x_of(k * step), y + 6)], width=1.2)
        if k in label:
            d.text(x_of(k * step), y + 18, f"{k * step:g}".replace("-", "−"))
    for v in shown:
        q = min(max(round(v / step), -7), 7)
        if abs(x_of(v) - x_of(q * step)) > 2:
            d.arrow([(x_of(v), y - 36), (x_of(q * step), y - 7)], colour=VERMILION, width=1.6)
        else:
            d.line([(x_of(v), y - 36), (x_of(v), y - 8)], colour=GREY, width=1.2, dash=True)
        d.box(x_of(v) - 5, y - 46, 10, 10, fill=BLUE, line=None, radius=5)


axis(100, 0.25, 1.75, "the largest is 1.75: steps of 0.25", W, (-7, -4, -2, 0, 2, 4, 7))
axis(280, 16, 112, "the largest is 112: steps of 16,\nand seven of the eight become 0", W[1:] + (112,), (-7, -4, -2, 0, 2, 4, 7))
d.save(__file__)
