"""Low rank as a narrow waist: a token's 7168 numbers, the latent of 512, and the keys and values of 128 heads made from it."""

from drawing import BLUE, GREEN, HATCH, Drawing, pale

d = Drawing(330, "7168 numbers of a token go through a waist of 512, which is kept; 128 heads make keys and values from it")
d.box(10, 60, 34, 200, fill=pale(BLUE, 0.4))
d.text(27, 42, "x", bold=True)
d.text(27, 276, "7168")
d.parts.append('<polygon points="44,60 128,148 128,172 44,260" fill="#EEEEEE"/>\n')
d.text(80, 160, "W_dkv")
d.box(128, 146, 34, 28, fill=HATCH)
d.text(145, 126, "latent c", bold=True)
d.text(141, 193, "512: kept")
d.parts.append('<polygon points="162,148 234,30 234,276 162,172" fill="#EEEEEE"/>\n')
d.text(209, 160, "W_uk,\nW_uv")
for i in range(4):
    y = 30 + 58 * i + (28 if i == 3 else 0)
    name = ("head 0", "head 1", "head 2", "head 127")[i]
    d.box(234, y, 42, 44, "key", fill=pale(GREEN, 0.5))
    d.box(278, y, 46, 44, "value", fill=pale(GREEN, 0.25))
    d.text(330, y + 22, name, anchor="start")
d.text(278, 216, "···", size=18)
d.text(390, 308, "32,768 numbers, in 512 dimensions", anchor="end")
d.save(__file__)
