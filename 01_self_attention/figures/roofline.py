"""The roofline of an H200 with the rungs of matmul_cuda.csv and softmax_cuda.csv on it, both axes logarithmic."""

import csv
import math
import pathlib

from drawing import BLUE, GREEN, GREY, VERMILION, Drawing

HERE = pathlib.Path(__file__).parent
MEMORY, F32, BF16 = 4.276, 67, 989  # TB/s of a copy, TFLOP/s of the data sheet
INTENSITY = {  # operations for a byte that a block asks for: the lesson's table
    "F32": {"naive": 1 / 4, "shared": 8, "registers": 32},
    "BF16": {"naive": 1 / 2, "shared": 16, "registers": 64, "tensor": 64, "hopper": 128},
}


def rows(name):
    lines = [l for l in (HERE / name).read_text().splitlines() if not l.startswith("#")]
    return list(csv.DictReader(lines))


def x_of(intensity):
    return 64 + (math.log10(intensity) + 1) * 130


def y_of(tflops):
    return 400 - (math.log10(tflops) + 0.3) * 105


d = Drawing(620, 470, "Roofline of an H200: speed against operations for a byte, with the rungs of the matrix product and softmax")
for p in (-1, 0, 1, 2, 3):
    d.line([(x_of(10**p), 60), (x_of(10**p), 410)], colour="#DDDDDD", width=1)
    d.text(x_of(10**p), 424, ["0.1", "1", "10", "100", "1000"][p + 1], size=13)
for p in (0, 1, 2, 3):
    d.line([(64, y_of(10**p)), (600, y_of(10**p))], colour="#DDDDDD", width=1)
    d.text(56, y_of(10**p), str(10**p), size=13, anchor="end")
d.text(340, 448, "operations for each byte that a block asks for")
d.text(16, 235, "TFLOP/s", angle=-90)
d.text(330, 24, "A roof of memory (slope) and arithmetic (flat)", bold=True, size=16)
for peak, name in ((F32, "F32 units: 67"), (BF16, "tensor cores, BF16: 989")):
    knee = peak / MEMORY
    d.line([(x_of(knee), y_of(peak)), (600, y_of(peak))], colour=GREY, width=3)
    d.text(598, y_of(peak) - 12, name, size=13, anchor="end", colour="#555555")
d.line([(x_of(0.13), y_of(0.13 * MEMORY)), (x_of(BF16 / MEMORY), y_of(BF16))], colour=GREY, width=3)
d.text(x_of(2.4), y_of(2.4 * MEMORY) - 16, "memory: 4.3 TB/s", size=13, colour="#555555", angle=-38)
for r in rows("matmul_cuda.csv"):
    at = INTENSITY[r["dtype"]].get(r["rung"])
    if not at:
        continue
    colour, speed = (BLUE if r["dtype"] == "F32" else VERMILION), float(r["gflops"]) / 1000
    d.box(x_of(at) - 5, y_of(speed) - 5, 10, 10, fill=colour, line=None, radius=5)
    if r["dtype"] == "BF16":
        low = r["rung"] in ("shared", "registers")
        at_x, at_y = (10, 9) if low else (6, -14) if r["rung"] == "naive" else (-10, -4)
        d.text(x_of(at) + at_x, y_of(speed) + at_y, r["rung"], size=13, anchor="start" if low else "end", colour=colour)
for r in rows("softmax_cuda.csv"):
    if r["rung"] == "registers" and r["dtype"] == "F32":
        speed = float(r["gbytes"]) / 1000 * 5 / 8  # about five operations for eight bytes
        d.box(x_of(5 / 8) - 5, y_of(speed) - 5, 10, 10, fill=GREEN, line=None, radius=0)
        d.text(x_of(5 / 8) + 10, y_of(speed) + 8, "softmax, registers", size=13, anchor="start", colour=GREEN)
for i, (colour, name) in enumerate(((BLUE, "product in F32, 4096³"), (VERMILION, "product in BF16, 8192³"), (GREEN, "softmax in F32"))):
    d.box(82, 62 + 20 * i, 10, 10, fill=colour, line=None, radius=0 if colour == GREEN else 5)
    d.text(98, 67 + 20 * i, name, size=13, anchor="start")
d.save(__file__)
