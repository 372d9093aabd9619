"""Three prompts of different lengths side by side: padded on the right, then all caches cut to all tokens but the last."""

from drawing import GREEN, GREY, HATCH, ORANGE, WHITE, Drawing, pale

LENGTHS, WIDE, CELL = (5, 3, 6), 5, 40
d = Drawing(640, 320, "Prompts of 5, 3 and 6 tokens: all but the last of each go through the model padded to 5, and the caches are cut to 4, 2 and 5")
d.text(20, 20, "1. through the model, as long as the longest, padded on the right", anchor="start", bold=True)
for b, n in enumerate(LENGTHS):
    for t in range(WIDE):
        real = t < n - 1
        d.box(40 + CELL * t, 38 + 34 * b, CELL, 28, f"t{'₀₁₂₃₄₅'[t]}" if real else "0", fill=pale(ORANGE) if real else pale(GREY, 0.3), radius=0, size=14)
    d.text(40 + CELL * WIDE + 16, 52 + 34 * b, f"and t{'₀₁₂₃₄₅'[n - 1]} waits", size=14, anchor="start")
d.text(20, 160, "2. the caches, cut to what is real", anchor="start", bold=True)
d.text(380, 160, "3. a step: one token each", anchor="start", bold=True)
for b, n in enumerate(LENGTHS):
    y = 178 + 34 * b
    for t in range(WIDE):
        real = t < n - 1
        d.box(40 + CELL * t, y, CELL, 28, f"c{'₀₁₂₃₄₅'[t]}" if real else "", fill=HATCH if real else WHITE, dash=not real, radius=0, size=14)
    d.box(400, y, CELL, 28, f"t{'₀₁₂₃₄₅'[n - 1]}", fill=pale(ORANGE), radius=0, size=14)
    d.arrow([(440, y + 14), (486, y + 14)])
    d.text(494, y + 14, f"t{'₀₁₂₃₄₅₆'[n]}", size=14, anchor="start")
d.text(320, 300, "hatched: in the cache.   0: padding, which no token sees, for the mask is causal", size=13)
d.save(__file__)
