"""A GPU as a programmer meets it: an H200's memories from the large and slow to the small and fast."""

from drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, Drawing, pale

d = Drawing(622, "An H200: memory, L2 cache, 132 multiprocessors with shared memory, registers and tensor cores")
d.box(10, 10, 380, 44, "memory (HBM)    141 GB", fill=pale(SKY), bold=True)
d.arrow([(100, 54), (100, 84)], width=7, colour="#666666")
d.text(116, 69, "4.8 TB/s; a copy reaches 4.3", anchor="start")
d.box(10, 84, 380, 38, "L2 cache    50 MB, for all multiprocessors", fill=pale(BLUE))
d.arrow([(100, 122), (100, 154)], width=7, colour="#666666")

d.box(10, 154, 380, 332, fill="#FAFAFA")
d.text(200, 172, "one multiprocessor (SM), clock about 1.8 GHz", bold=True)
d.box(20, 188, 360, 50, "shared memory: 227 KiB for a block\n32 banks of 4 bytes: 128 bytes in a clock", fill=pale(GREEN))
for i in range(4):
    x = 20 + 92 * i
    d.box(x, 250, 84, 44, "16384\nregisters", fill=pale(ORANGE))
    d.box(x, 300, 84, 44, "32 lanes,\nF32", fill="#FFFFFF")
    d.box(x, 350, 84, 44, "tensor\ncore", fill=pale(PURPLE, 0.45))
d.text(200, 416, "each quarter gives one of its warps an order")
d.text(200, 439, "a clock: 256 operations in F32, 4096 in BF16")
d.text(200, 462, "up to 64 warps are here; who waits costs nothing")

for i in range(3):
    d.box(10 + 12 * i, 500 + 12 * i, 94, 84, fill="#FAFAFA")
d.text(81, 566, "131 more", bold=True)
for y, word, is_ in ((512, "thread", "one lane"), (532, "warp", "32 threads, one order"), (562, "block", "up to 32 warps, one SM,\none shared memory"), (592, "grid", "all blocks")):
    d.text(154, y - (8 if word == "block" else 0), word, anchor="start", bold=True)
    d.text(214, y, is_, anchor="start")
d.save(__file__)
