"""MHA, GQA and MQA side by side: which query heads read which key and value heads, and what is kept in the cache."""

from drawing import BLUE, HATCH, Drawing, pale

d = Drawing(318, "Eight query heads: with 8 key heads (MHA), 2 (GQA) or 1 (MQA); only keys and values are cached")
for i, (name, kv) in enumerate((("MHA", 8), ("GQA", 2), ("MQA", 1))):
    left = 8 + 132 * i
    d.text(left + 60, 24, f"{name}\n{kv} key head{'s' * (kv > 1)}", bold=True)
    for g in range(kv):
        x = left + 120 * (g + 0.5) / kv
        d.box(x - 6, 186, 12, 40, fill=HATCH, radius=2)
        for h in range(g * 8 // kv, (g + 1) * 8 // kv):
            d.line([(left + 15 * h + 7.5, 96), (x, 186)], colour="#666666", width=1.2)
    for h in range(8):
        d.box(left + 15 * h + 1.5, 56, 12, 40, fill=pale(BLUE, 0.4), radius=2)
    d.text(left + 60, 244, f"cache: {'1' if kv == 8 else '1/4' if kv == 2 else '1/8'}")
d.box(70, 266, 12, 18, fill=pale(BLUE, 0.4), radius=2)
d.text(92, 275, "query head", anchor="start")
d.box(70, 290, 12, 18, fill=HATCH, radius=2)
d.text(92, 299, "key and value head, in the cache", anchor="start")
d.save(__file__)
