"""Three prompts of different lengths side by side: padded on the right, then all caches cut to all tokens but the last."""

from drawing import GREEN, GREY, HATCH, ORANGE, WHITE, Drawing, pale

LENGTHS, WIDE, CELL = (5, 3, 6), 5, 36
d = Drawing(350, "Prompts of 5, 3 and 6 tokens: all but the last of each go through the model padded to 5, and the caches are cut to 4, 2 and 5")
d.text(12, 24, "1. through the model: as long as the longest,\npadded on the right", anchor="start", bold=True)
for b, n in enumerate(LENGTHS):
    for t in range(WIDE):
        real = t < n - 1
        d.box(12 + CELL * t, 48 + 34 * b, CELL, 28, f"t{'₀₁₂₃₄₅'[t]}" if real else "0", fill=pale(ORANGE) if real else pale(GREY, 0.3), radius=0, size=14)
    d.text(12 + CELL * WIDE + 16, 62 + 34 * b, f"and t{'₀₁₂₃₄₅'[n - 1]} waits", anchor="start")
d.text(12, 174, "2. the caches, cut\nto what is real", anchor="start", bold=True)
d.text(232, 174, "3. a step:\none token each", anchor="start", bold=True)
for b, n in enumerate(LENGTHS):
    y = 200 + 34 * b
    for t in range(WIDE):
        real = t < n - 1
        d.box(12 + CELL * t, y, CELL, 28, f"c{'₀₁₂₃₄₅'[t]}" if real else "", fill=HATCH if real else WHITE, dash=not real, radius=0, size=14)
    d.box(232, y, CELL, 28, f"t{'₀₁₂₃₄₅'[n - 1]}", fill=pale(ORANGE), radius=0, size=14)
    d.arrow([(232 + CELL, y + 14), (312, y + 14)])
    d.text(320, y + 14, f"t{'₀₁₂₃₄₅₆'[n]}", size=14, anchor="start")
d.text(12, 326, "hatched: in the cache. 0: padding, which no token\nsees, for the mask is causal", anchor="start")
d.save(__file__)
