"""Four tokens by plain decoding and by guesses that are checked, on one axis of time."""

from drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, Drawing, pale

STEP, V, C = 118, 1.29, 0.25  # a plain step in pixels; a look at three rows and a draft, in plain steps
d = Drawing(640, 330, "Plain decoding takes four steps for four tokens; two drafts and one look make three of them")
d.text(20, 24, "plain: each step reads all weights and makes one token", anchor="start", bold=True)
x = 20
for i in range(4):
    d.box(x, 42, STEP, 40, "step", fill=pale(BLUE), radius=0)
    d.arrow([(x + STEP, 82), (x + STEP, 108)])
    d.text(x + STEP, 120, ("“the”", "“dog”", "“ran”", "“off”")[i])
    x += STEP
d.text(20, 170, "with two drafts: guess, guess, then look at all three rows at once", anchor="start", bold=True)
x = 20
for words, kept in (("“the” “dog” “ran”", 2), ("“off” …", 0)):
    for i in range(2):
        d.box(x, 188, C * STEP, 40, "d" + "₁₂"[i], fill=pale(ORANGE, 0.45), radius=0)
        d.text(x + C * STEP / 2, 242, "✓" if i < kept else "✗", colour=GREEN if i < kept else VERMILION, bold=True)
        x += C * STEP
    d.box(x, 188, V * STEP, 40, "look", fill=pale(GREEN), radius=0)
    x += V * STEP
    d.arrow([(x, 228), (x, 254)])
    d.text(x, 266, words, anchor="middle")
d.arrow([(20, 300), (600, 300)], colour=GREY)
d.text(310, 316, "time", size=13)
d.save(__file__)
