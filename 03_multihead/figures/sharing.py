"""MHA, GQA and MQA side by side: which query heads read which key and value heads, and what is kept in the cache."""

from drawing import BLUE, HATCH, Drawing, pale

d = Drawing(620, 300, "Eight query heads: with 8 key heads (MHA), 2 (GQA) or 1 (MQA); only keys and values are cached")
for i, (name, kv) in enumerate((("MHA", 8), ("GQA", 2), ("MQA", 1))):
    left = 18 + 204 * i
    d.text(left + 88, 24, f"{name}: {kv} key head{'s' * (kv > 1)}", bold=True)
    for g in range(kv):
        x = left + 176 * (g + 0.5) / kv
        d.box(x - 9, 180, 18, 44, fill=HATCH)
        for h in range(g * 8 // kv, (g + 1) * 8 // kv):
            q = left + 22 * h + 11
            d.line([(q, 92), (x, 180)], colour="#666666", width=1.2)
    for h in range(8):
        d.box(left + 22 * h + 2, 48, 18, 44, fill=pale(BLUE, 0.4))
    d.text(left + 88, 244, f"cache: {'1' if kv == 8 else '1/4' if kv == 2 else '1/8'}", size=15)
d.box(150, 266, 18, 20, fill=pale(BLUE, 0.4))
d.text(176, 276, "query head", size=13, anchor="start")
d.box(290, 266, 18, 20, fill=HATCH)
d.text(316, 276, "key and value head, in the cache", size=13, anchor="start")
d.save(__file__)
