"""Low rank as a narrow waist: a token's 7168 numbers, the latent of 512, and the keys and values of 128 heads made from it."""

from drawing import BLUE, GREEN, HATCH, Drawing, pale

d = Drawing(620, 330, "7168 numbers of a token go through a waist of 512, which is kept; 128 heads make keys and values from it")
d.box(20, 60, 46, 200, fill=pale(BLUE, 0.4))
d.text(43, 40, "x", bold=True)
d.text(43, 278, "7168", size=14)
d.parts.append('<polygon points="66,60 236,148 236,172 66,260" fill="#EEEEEE"/>\n')
d.text(146, 160, "W_dkv")
d.box(236, 146, 40, 28, fill=HATCH)
d.text(256, 126, "latent c", bold=True)
d.text(256, 192, "512: kept", size=14)
d.parts.append('<polygon points="276,148 430,30 430,290 276,172" fill="#EEEEEE"/>\n')
d.text(362, 160, "W_uk, W_uv", size=14)
for i in range(4):
    y = 30 + 58 * i + (28 if i == 3 else 0)
    name = ("head 0", "head 1", "head 2", "head 127")[i]
    d.box(430, y, 50, 44, "key", fill=pale(GREEN, 0.5), size=13)
    d.box(482, y, 50, 44, "value", fill=pale(GREEN, 0.25), size=13)
    d.text(540, y + 22, name, anchor="start", size=13)
d.text(480, 216, "···", size=18)
d.text(480, 308, "32,768 numbers, in 512 dimensions", size=14)
d.save(__file__)
