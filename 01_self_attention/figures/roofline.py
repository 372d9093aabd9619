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
    return 52 + (math.log10(intensity) + 1) * 84


def y_of(tflops):
    return 404 - (math.log10(tflops) + 0.3) * 100


d = Drawing(524, "Roofline of an H200: speed against operations for a byte, with the rungs of the matrix product and softmax")
for p in (-1, 0, 1, 2, 3):
    d.line([(x_of(10**p), 60), (x_of(10**p), 412)], colour="#DDDDDD", width=1)
    d.text(x_of(10**p) - (8 if p == 3 else 0), 424, ["0.1", "1", "10", "100", "1000"][p + 1])
for p in (0, 1, 2, 3):
    d.line([(52, y_of(10**p)), (390, y_of(10**p))], colour="#DDDDDD", width=1)
    d.text(48, y_of(10**p), str(10**p), anchor="end")
d.text(220, 446, "operations for each byte that a block asks for")
d.text(10, 240, "TFLOP/s", angle=-90)
d.text(220, 24, "A roof of memory (slope)\nand arithmetic (flat)", bold=True, size=14)
for peak, name in ((F32, "F32 units: 67"), (BF16, "tensor cores, BF16: 989")):
    knee = peak / MEMORY
    d.line([(x_of(knee), y_of(peak)), (390, y_of(peak))], colour=GREY, width=3)
    d.text(390, y_of(peak) - 12, name, anchor="end", colour="#555555")
d.line([(x_of(0.13), y_of(0.13 * MEMORY)), (x_of(BF16 / MEMORY), y_of(BF16))], colour=GREY, width=3)
d.text(x_of(3.4) - 11, y_of(3.4 * MEMORY) - 9, "memory: 4.3 TB/s", colour="#555555", angle=-50)
for r in rows("matmul_cuda.csv"):
    at = INTENSITY[r["dtype"]].get(r["rung"])
    if not at:
        continue
    colour, speed = (BLUE if r["dtype"] == "F32" else VERMILION), float(r["gflops"]) / 1000
    d.box(x_of(at) - 5, y_of(speed) - 5, 10, 10, fill=colour, line=None, radius=5)
    if r["dtype"] == "BF16":
        low = r["rung"] in ("shared", "registers")
        at_x, at_y = (10, 9) if low else (6, -14) if r["rung"] == "naive" else (-10, -4)
        d.text(x_of(at) + at_x, y_of(speed) + at_y, r["rung"], anchor="start" if low else "end", colour=colour)
for r in rows("softmax_cuda.csv"):
    if r["rung"] == "registers" and r["dtype"] == "F32":
        speed = float(r["gbytes"]) / 1000 * 5 / 8  # about five operations for eight bytes
        d.box(x_of(5 / 8) - 5, y_of(speed) - 5, 10, 10, fill=GREEN, line=None, radius=0)
        d.text(x_of(5 / 8) + 10, y_of(speed) + 8, "softmax, registers", anchor="start", colour=GREEN)
for i, (colour, name) in enumerate(((BLUE, "product in F32, 4096³"), (VERMILION, "product in BF16, 8192³"), (GREEN, "softmax in F32"))):
    d.box(60, 462 + 20 * i, 10, 10, fill=colour, line=None, radius=0 if colour == GREEN else 5)
    d.text(78, 467 + 20 * i, name, anchor="start")
d.save(__file__)
