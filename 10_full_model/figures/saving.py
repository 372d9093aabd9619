"""A model of several files is replaced: when a kill may come, and which model is there then."""

from drawing import BLUE, GREEN, GREY, VERMILION, Drawing, pale

d = Drawing(330, "Write beside, one rename, then move the files up: before the rename the old model counts, after it the new one")
STEPS = (
    (44, 50, "1. write all files into\n…incoming.PID.tmp", BLUE),
    (118, 50, "2. a rename:\n…incoming", VERMILION),
    (192, 50, "3. files move up,\none by one", BLUE),
    (266, 34, "4. done", GREEN),
)
for y, h, words, colour in STEPS:
    d.box(10, y, 176, h, words, fill=pale(colour))
for a, b in ((94, 118), (168, 192), (242, 266)):
    d.arrow([(98, a), (98, b)])
d.text(390, 22, "a kill, or a full disk, here:", anchor="end", bold=True)
d.box(206, 44, 184, 92, "the old model is\nas it was; what was\nbegun is thrown away", fill=pale(GREY, 0.3), line=None)
d.box(206, 150, 184, 150, "the new model counts;\nwhoever opens the folder\nnext moves the rest up", fill=pale(GREEN), line=None)
d.line([(186, 143), (396, 143)], colour=VERMILION, width=1.6, dash=True)
d.text(200, 316, "dashed: the moment that decides")
d.save(__file__)
