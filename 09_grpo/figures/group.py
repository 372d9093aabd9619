"""Four answers to one question: rewards, their mean, and what is left of each: the advantage."""

from drawing import BLUE, GREEN, GREY, VERMILION, Drawing, pale

ANSWERS, REWARDS, ADVANTAGES = ("112", "102", "113", "111"), (1, 0, 0, 0), (1.5, -0.5, -0.5, -0.5)
d = Drawing(338, "One answer of four is right: its advantage is 1.5, that of the others is -0.5, and their sum is 0")
d.box(8, 130, 72, 44, "27+85=", fill=pale(GREY), mono=True)
d.text(44, 198, "one\nquestion")
for i, answer in enumerate(ANSWERS):
    y = 30 + 64 * i
    d.box(120, y, 56, 40, answer, fill=pale(BLUE), mono=True)
    d.arrow([(80, 152), (120, y + 20)], colour=GREY)
    d.text(204, y + 20, f"R = {REWARDS[i]}")
    zero, length, colour = 302, 36 * ADVANTAGES[i], GREEN if ADVANTAGES[i] > 0 else VERMILION
    d.box(min(zero, zero + length), y + 6, abs(length), 28, fill=pale(colour, 0.5), radius=0)
    beside = zero + length + (7 if length > 0 else -7)
    d.text(beside, y + 20, f"{ADVANTAGES[i]:+g}".replace("-", "−"), anchor="start" if length > 0 else "end", bold=True)
d.line([(302, 18), (302, 270)], width=1.4)
d.text(128, 302, "four answers,\ndrawn")
d.text(214, 302, "rewards,\nmean ¼")
d.text(316, 302, "advantages:\nabove the mean\nor below it")
d.save(__file__)
