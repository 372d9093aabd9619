"""What a token wins against its ratio r, for a good answer and for a bad one."""

from drawing import BLUE, GREY, VERMILION, Drawing, pale

LOW, HIGH = 0.8, 1.28
d = Drawing(326, "The clipped objective: flat above 1 + epsilon_high where A is positive, flat below 1 - epsilon where A is negative")
for left, a, colour, title in ((12, 1, BLUE, "A > 0:\nmake it likelier"), (208, -1, VERMILION, "A < 0:\nmake it less likely")):
    base = 240 if a > 0 else 100

    def at(r):
        won = min(r * a, min(max(r, LOW), HIGH) * a)
        return (left + 180 * (r - 0.4) / 1.3, base - 95 * won)

    d.text(left + 90, 26, title, bold=True)
    for r, name, dash in ((LOW, "1 − ε", True), (1, "1", False), (HIGH, "1 + ε_high", True)):
        x = at(r)[0]
        d.line([(x, 60), (x, 266)], colour=GREY, width=1, dash=dash)
        d.text(x + {"1 − ε": -11, "1": 0}.get(name, 27), 280, name)
    d.line([at(0.4 + k * 0.01) for k in range(131)], colour=colour, width=3)
    (x, y), why = (at(1.49), "flat:\nlikely\nenough") if a > 0 else (at(0.57), "flat:\nunlikely\nenough")
    d.text(x, y - 30, why)
d.text(200, 308, "r, how much likelier the token has become")
d.save(__file__)
