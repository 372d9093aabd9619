"""A GPU as a programmer meets it: an H200's memories from the large and slow to the small and fast."""

from drawing import BLUE, GREEN, ORANGE, PURPLE, SKY, Drawing, pale

d = Drawing(620, 500, "An H200: memory, L2 cache, 132 multiprocessors with shared memory, registers and tensor cores")
d.box(10, 10, 600, 48, "memory (HBM)    141 GB", fill=pale(SKY), bold=True)
d.arrow([(310, 58), (310, 88)], width=7, colour="#666666")
d.text(324, 73, "4.8 TB/s; a copy reaches 4.3", anchor="start", size=13)
d.box(10, 88, 600, 40, "L2 cache    50 MB, for all multiprocessors", fill=pale(BLUE))
d.arrow([(150, 128), (150, 162)], width=7, colour="#666666")

d.box(10, 162, 420, 328, fill="#FAFAFA")
d.text(220, 180, "one multiprocessor (SM), clock about 1.8 GHz", bold=True)
d.box(24, 198, 392, 54, "shared memory: 227 KiB for a block\n32 banks of 4 bytes: 128 bytes in a clock", fill=pale(GREEN))
for i in range(4):
    x = 24 + 100 * i
    d.box(x, 264, 92, 44, "16384\nregisters", fill=pale(ORANGE), size=13)
    d.box(x, 314, 92, 44, "32 lanes,\nF32", fill="#FFFFFF", size=13)
    d.box(x, 364, 92, 44, "tensor\ncore", fill=pale(PURPLE, 0.45), size=13)
d.text(220, 424, "four quarters: each gives one of its warps the next order", size=13)
d.text(220, 446, "F32: 256 operations a clock      BF16 on tensor cores: 4096", size=13)
d.text(220, 468, "up to 64 warps are here at a time; who waits costs nothing", size=13)

for i in range(3):
    d.box(446 + 12 * i, 162 + 12 * i, 128, 120, fill="#FAFAFA")
d.text(534, 246, "131 more", bold=True)
d.text(446, 336, "thread   one lane", anchor="start", size=13)
d.text(446, 360, "warp     32 threads,", anchor="start", size=13)
d.text(446, 378, "              one order", anchor="start", size=13)
d.text(446, 402, "block    up to 32 warps,", anchor="start", size=13)
d.text(446, 420, "              one SM, one", anchor="start", size=13)
d.text(446, 438, "              shared memory", anchor="start", size=13)
d.text(446, 462, "grid      all blocks", anchor="start", size=13)
d.save(__file__)
