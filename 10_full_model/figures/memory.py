"""Bytes that a training step of 109m needs for each weight, and that its activations need for each token."""

from drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, Drawing, pale

# deepseek info --config 109m --batch 32 --context 1024 --vocab 50257
ROWS = (
    ("F32", (("weights", 4, GREEN), ("gradients", 4, ORANGE), ("m", 4, PURPLE), ("v", 4, PURPLE))),
    ("BF16", (("copy", 2, SKY), ("masters", 4, GREEN), ("gradients", 4, ORANGE), ("m", 4, PURPLE), ("v", 4, PURPLE))),
    ("serve,\nBF16", (("copy", 2, SKY),)),
)
BYTE, SCALE = 17.5, 8.2  # pixels of a byte for each weight, of a GiB
d = Drawing(312, "Bytes of memory for each weight: 16 in F32, 18 in BF16 with masters, 2 to serve; activations come on top")
d.text(8, 20, "for each weight, bytes", anchor="start", bold=True)
for r, (name, parts) in enumerate(ROWS):
    y, x = 36 + 48 * r, 56
    d.text(x - 6, y + 18, name, anchor="end")
    for part, size, colour in parts:
        d.box(x, y, BYTE * size, 36, f"{part}\n{size}", fill=pale(colour, 0.35), radius=0)
        x += BYTE * size
    d.text(x + 6, y + 18, f"{sum(p[1] for p in parts)}", anchor="start", bold=True)
d.text(8, 204, "for 109m, 32 texts of 1,024 tokens, GiB", anchor="start", bold=True)
d.text(56, 298, "green: what the rows above count", anchor="start")
for r, (name, state, activations) in enumerate((("F32", 1.62, 34.19), ("BF16", 1.83, 17.1))):
    y, x = 218 + 38 * r, 56
    d.text(x - 6, y + 14, name, anchor="end")
    d.box(x, y, SCALE * state, 28, fill=pale(GREEN, 0.35), radius=0)
    d.box(x + SCALE * state, y, SCALE * activations, 28, f"activations {activations:g}", fill=pale(BLUE), radius=0)
    d.text(x + SCALE * (state + activations) + 6, y + 14, f"{state + activations:.1f}", anchor="start", bold=True)
d.save(__file__)
