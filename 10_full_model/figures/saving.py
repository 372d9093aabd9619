"""A model of several files is replaced: when a kill may come, and which model is there then."""

from drawing import BLUE, GREEN, GREY, VERMILION, Drawing, pale

d = Drawing(640, 262, "Write beside, one rename, then move the files up: before the rename the old model counts, after it the new one")
STEPS = (
    (20, 208, "1. write all files\ninto …incoming.PID.tmp", BLUE),
    (248, 112, "2. a rename:\n…incoming", VERMILION),
    (380, 140, "3. files move up,\none by one", BLUE),
    (540, 82, "4. done", GREEN),
)
for x, w, words, colour in STEPS:
    d.box(x, 40, w, 62, words, fill=pale(colour), size=14)
for a, b in ((228, 248), (360, 380), (520, 540)):
    d.arrow([(a, 71), (b, 71)])
d.line([(306, 116), (306, 226)], colour=VERMILION, width=1.6, dash=True)
d.text(20, 136, "a kill, or a full disk, here:", size=14, anchor="start", bold=True)
d.box(20, 154, 280, 58, "the old model is as it was;\nwhat was begun is thrown away", fill=pale(GREY, 0.3), size=14, line=None)
d.box(312, 154, 310, 58, "the new model counts; whoever opens\nthe folder next moves the rest up", fill=pale(GREEN), size=14, line=None)
d.text(306, 244, "the moment that decides", size=13)
d.save(__file__)
