"""Two modules behind a decoder, in one row i: what each is told, and what it says."""

from drawing import BLUE, GREEN, ORANGE, Drawing, pale

d = Drawing(310, "A decoder and two modules: each module takes the state before it and one token more")
for k, x in enumerate((8, 149, 290)):
    name = "decoder\nlayers\n1 … L, norm" if k == 0 else f"module {k}\neh_proj,\nblock, norm"
    d.box(x, 116, 102, 66, name, fill=pale(BLUE if k == 0 else GREEN))
    told = "t₀ … tᵢ" if k == 0 else f"tᵢ₊{'₁₂'[k - 1]}"
    d.box(x + 13, 234, 76, 34, told, fill=pale(ORANGE), size=15)
    d.arrow([(x + 51, 234), (x + 51, 182)])
    d.text(x + 44, 210, "reads" if k == 0 else "is told", anchor="end")
    d.arrow([(x + 51, 116), (x + 51, 60)])
    d.text(x + 58, 90, "head", anchor="start")
    d.text(x + 51, 42, f"says tᵢ₊{'₁₂₃'[k]}", bold=True, size=15)
    if k < 2:
        d.arrow([(x + 102, 149), (x + 141, 149)], "h⁰ᵢ" if k == 0 else "h¹ᵢ", size=15, above=14)
d.text(200, 292, "one embedding table and one head serve all three")
d.save(__file__)
