"""By how much each of V3's 32 pairs is slowed down for a context 40 times as long: PI, NTK and YaRN."""

import math

from drawing import BLACK, BLUE, GREEN, GREY, VERMILION, Drawing, pale

DIM, THETA, TRAINED, FACTOR, FAST, SLOW = 64, 10000, 4096, 40, 32, 1
LEFT, RIGHT, TOP, BOTTOM = 48, 386, 82, 282


def pair_with(turns):
    return DIM * math.log(TRAINED / (2 * math.pi * turns)) / (2 * math.log(THETA))


low, high = math.floor(pair_with(FAST)), math.ceil(pair_with(SLOW))


def yarn(i):
    ramp = min(max((i - low) / (high - low), 0), 1)
    return 1 / (ramp / FACTOR + 1 - ramp)


def x_of(i):
    return LEFT + (RIGHT - LEFT) * i / 31


def y_of(slower):
    return BOTTOM - (BOTTOM - TOP) * math.log(slower) / math.log(FACTOR)


d = Drawing(344, "Slow-down of each pair: PI 40 for all, NTK from 1 to 40 over all pairs, YaRN 1 up to pair 10 and 40 from pair 23 on")
d.box(LEFT, TOP, x_of(low) - LEFT, BOTTOM - TOP, fill=pale(GREEN, 0.13), line=None, radius=0)
d.box(x_of(high), TOP, RIGHT - x_of(high), BOTTOM - TOP, fill=pale(VERMILION, 0.13), line=None, radius=0)
for x, words in (
    ((LEFT + x_of(low)) / 2, "32 turns or\nmore in\ntraining: leave"),
    ((x_of(low) + x_of(high)) / 2, "between:\na ramp"),
    ((x_of(high) + RIGHT) / 2, "never round:\nsqueeze\n40 times"),
):
    d.text(x, 40, words)
for slower in (1, 2, 5, 10, 20, 40):
    d.line([(LEFT - 5, y_of(slower)), (LEFT, y_of(slower))], width=1)
    d.text(LEFT - 9, y_of(slower), f"{slower}", anchor="end")
d.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], width=1)
for i in (0, low, 16, high, 31):
    d.line([(x_of(i), BOTTOM), (x_of(i), BOTTOM + 5)], width=1)
    d.text(x_of(i), BOTTOM + 17, f"{i}")
d.text((LEFT + RIGHT) / 2, BOTTOM + 42, "pair: from fast to slow")
d.text(10, (TOP + BOTTOM) / 2, "times slower", angle=-90)
for colour, of, name, at in (
    (VERMILION, lambda i: FACTOR, "PI", (3.4, 14)),
    (GREEN, lambda i: FACTOR ** (2 * i / (DIM - 2)), "NTK", (7.2, -18)),
    (BLUE, yarn, "YaRN", (21, 54)),
):
    d.line([(x_of(i), y_of(of(i))) for i in range(32)], colour=colour, width=3)
    d.text(x_of(at[0]), y_of(of(at[0])) + at[1], name, colour=colour, bold=True, size=15)
d.save(__file__)
