"""Bits of the formats: where sign, exponent and fraction lie."""

from drawing import BLUE, GREEN, GREY, ORANGE, Drawing, pale

FORMATS = (
    ("BF16", "s" + 8 * "e" + 7 * "f", "off by 1 part in 256"),
    ("E5M2", "s" + 5 * "e" + 2 * "f", "up to 57,344; off by 1 part in 8"),
    ("E4M3", "s" + 4 * "e" + 3 * "f", "up to 448; off by 1 part in 16"),
    ("INT8", 8 * "i", "−127 … 127, as q + 128; off by half a step"),
    ("INT4", 4 * "i", "−7 … 7, as q + 8; off by half a step"),
    ("ue8m0", 8 * "e", "powers of two, for scales"),
)
FILLS = {"s": pale(GREY, 0.5), "e": pale(ORANGE, 0.5), "f": pale(BLUE), "i": pale(GREEN)}
d = Drawing(420, "Bits of BF16, E5M2, E4M3, INT8, INT4 and ue8m0: sign, exponent, fraction or whole number")
for row, (name, bits, reach) in enumerate(FORMATS):
    y = 12 + 60 * row
    d.text(60, y + 15, name, anchor="end", bold=True)
    for c, bit in enumerate(bits):
        d.box(70 + 18 * c, y, 18, 30, bit, fill=FILLS[bit], radius=0, width=1, mono=True)
    d.text(70, y + 42, reach, anchor="start")
for x, y, bit, words in ((70, 368, "s", "sign"), (200, 368, "e", "exponent"), (70, 394, "f", "fraction"), (200, 394, "i", "whole number")):
    d.box(x, y, 18, 18, fill=FILLS[bit], radius=0, width=1)
    d.text(x + 26, y + 9, words, anchor="start")
d.save(__file__)
