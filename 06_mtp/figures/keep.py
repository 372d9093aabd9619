"""p and q of the three tokens: the part they share stays, what p has more is drawn when a draft was refused."""

from drawing import BLUE, GREEN, GREY, INK, VERMILION, Drawing, pale

p, q = (0.5, 0.3, 0.2), (0.2, 0.6, 0.2)
HIGH, BASE, WIDE = 300, 268, 44
d = Drawing(322, "Bars of p and q: what both have stays, what q has too much is refused, what p has more makes up for it")
d.line([(10, BASE), (390, BASE)])
for i in range(3):
    x, both = 26 + 126 * i, min(p[i], q[i])
    for left, mass, name in ((x, p[i], "p"), (x + WIDE + 6, q[i], "q")):
        more = mass - both
        d.box(left, BASE - HIGH * both, WIDE, HIGH * both, f"{both:.1f}".lstrip("0"), fill=pale(GREEN, 0.35), radius=0)
        if more > 1e-9:
            fill = pale(BLUE, 0.35) if name == "p" else pale(VERMILION, 0.35)
            d.box(left, BASE - HIGH * mass, WIDE, HIGH * more, f"{more:.1f}".lstrip("0"), fill=fill, radius=0)
        d.text(left + WIDE / 2, BASE + 14, name)
    d.text(x + WIDE + 3, BASE + 36, "abc"[i], bold=True)
for y, colour, words in ((10, GREEN, "both: it stays"), (32, VERMILION, "q too much: refused"), (54, BLUE, "p more: comes instead")):
    d.box(26, y, 16, 16, fill=pale(colour, 0.35), radius=0)
    d.text(50, y + 8, words, anchor="start")
d.save(__file__)
