"""Four answers to one question: rewards, their mean, and what is left of each: the advantage."""

from drawing import BLUE, GREEN, GREY, VERMILION, Drawing, pale

ANSWERS, REWARDS, ADVANTAGES = ("112", "102", "113", "111"), (1, 0, 0, 0), (1.5, -0.5, -0.5, -0.5)
d = Drawing(640, 330, "One answer of four is right: its advantage is 1.5, that of the others is -0.5, and their sum is 0")
d.box(16, 130, 110, 44, "27+85=", fill=pale(GREY), mono=True)
d.text(71, 190, "one question", size=13)
for i, answer in enumerate(ANSWERS):
    y = 30 + 64 * i
    d.box(190, y, 74, 40, answer, fill=pale(BLUE), mono=True)
    d.arrow([(126, 152), (190, y + 20)], colour=GREY)
    d.text(320, y + 20, f"R = {REWARDS[i]}")
    zero, length, colour = 500, 58 * ADVANTAGES[i], GREEN if ADVANTAGES[i] > 0 else VERMILION
    d.box(min(zero, zero + length), y + 6, abs(length), 28, fill=pale(colour, 0.5), radius=0)
    beside = zero + length + (10 if length > 0 else -10)
    d.text(beside, y + 20, f"{ADVANTAGES[i]:+g}".replace("-", "−"), anchor="start" if length > 0 else "end", bold=True)
d.line([(500, 18), (500, 270)], width=1.4)
d.text(227, 286, "four answers,\ndrawn", size=13)
d.text(320, 286, "rewards,\nmean ¼", size=13)
d.text(500, 286, "advantages: above the mean\nor below it", size=13)
d.save(__file__)
