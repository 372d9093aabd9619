"""What a token wins against its ratio r, for a good answer and for a bad one."""

from drawing import BLUE, GREY, VERMILION, Drawing, pale

LOW, HIGH = 0.8, 1.28
d = Drawing(640, 300, "The clipped objective: flat above 1 + epsilon_high where A is positive, flat below 1 - epsilon where A is negative")
for left, a, colour, title in ((40, 1, BLUE, "A > 0: make it likelier"), (350, -1, VERMILION, "A < 0: make it less likely")):
    base = 220 if a > 0 else 80

    def at(r):
        won = min(r * a, min(max(r, LOW), HIGH) * a)
        return (left + 250 * (r - 0.4) / 1.3, base - 95 * won)

    d.text(left + 125, 22, title, bold=True)
    for r, name, dash in ((LOW, "1 − ε", True), (1, "1", False), (HIGH, "1 + ε_high", True)):
        x = at(r)[0]
        d.line([(x, 46), (x, 250)], colour=GREY, width=1, dash=dash)
        d.text(x + {"1 − ε": -6, "1": 0}.get(name, 14), 264, name, size=13)
    d.line([at(0.4 + k * 0.01) for k in range(131)], colour=colour, width=3)
    flat = (at(1.49), "flat: likely enough") if a > 0 else (at(0.58), "flat: unlikely\nenough")
    d.text(flat[0][0], flat[0][1] - 14 - (8 if a < 0 else 0), flat[1], size=13)
    d.text(left + 125, 286, "r, how much likelier the token has become", size=13)
d.save(__file__)
