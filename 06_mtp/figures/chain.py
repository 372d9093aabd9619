"""Two modules behind a decoder, in one row i: what each is told, and what it says."""

from drawing import BLUE, GREEN, ORANGE, Drawing, pale

d = Drawing(620, 290, "A decoder and two modules: each module takes the state before it and one token more")
for k, x in enumerate((20, 230, 440)):
    name = "decoder\nlayers 1 … L, norm" if k == 0 else f"module {k}\neh_proj, block, norm"
    d.box(x, 120, 160, 56, name, fill=pale(BLUE if k == 0 else GREEN), size=14)
    told = "t₀ … tᵢ" if k == 0 else f"tᵢ₊{'₁₂'[k - 1]}"
    d.box(x + 35, 225, 90, 34, told, fill=pale(ORANGE))
    d.arrow([(x + 80, 225), (x + 80, 176)])
    d.text(x + 74, 202, "reads" if k == 0 else "is told", size=13, anchor="end")
    d.arrow([(x + 80, 120), (x + 80, 62)])
    d.text(x + 86, 92, "head", size=13, anchor="start")
    d.text(x + 80, 44, f"says tᵢ₊{'₁₂₃'[k]}", bold=True)
    if k < 2:
        d.arrow([(x + 160, 148), (x + 210, 148)], "h⁰ᵢ" if k == 0 else "h¹ᵢ", size=15, above=14)
d.text(310, 277, "one embedding table and one head serve all three", size=13)
d.save(__file__)
