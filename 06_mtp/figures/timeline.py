"""Four tokens by plain decoding and by guesses that are checked, on one axis of time."""

from drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, Drawing, pale

STEP, V, C = 92, 1.29, 0.25  # a plain step in pixels; a look at three rows and a draft, in plain steps
d = Drawing(356, "Plain decoding takes four steps for four tokens; two drafts and one look make three of them")
d.text(12, 24, "plain: each step reads all weights\nand makes one token", anchor="start", bold=True)
x = 12
for i in range(4):
    d.box(x, 50, STEP, 40, "step", fill=pale(BLUE), radius=0)
    d.arrow([(x + STEP, 90), (x + STEP, 114)])
    d.text(x + STEP - (8 if i == 3 else 0), 126, ("“the”", "“dog”", "“ran”", "“off”")[i])
    x += STEP
d.text(12, 178, "with two drafts: guess, guess, then look\nat all three rows at once", anchor="start", bold=True)
x = 12
for words, kept in (("“the” “dog” “ran”", 2), ("“off” …", 0)):
    for i in range(2):
        d.box(x, 204, C * STEP, 40, "d" + "₁₂"[i], fill=pale(ORANGE, 0.45), radius=0)
        d.text(x + C * STEP / 2, 257, "✓" if i < kept else "✗", colour=GREEN if i < kept else VERMILION, bold=True, size=15)
        x += C * STEP
    d.box(x, 204, V * STEP, 40, "look", fill=pale(GREEN), radius=0)
    x += V * STEP
    d.arrow([(x, 244), (x, 274)])
    d.text(x, 286, words)
d.arrow([(12, 316), (390, 316)], colour=GREY)
d.text(200, 334, "time")
d.save(__file__)
