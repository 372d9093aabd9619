"""Latent attention in two ways, with V3's sizes: naive (keys and values are made) and absorbed (the query is made wide)."""

from drawing import BLUE, GREEN, HATCH, ORANGE, PURPLE, Drawing, pale

d = Drawing(568, "MLA as two data flows: naive makes keys and values from the latents, absorbed takes the matrices to the query")


def rank_box(x, y, w, text, fill):
    d.box(x, y, w, 36, text, fill=fill)


# what both have: the new token's query, the cache
d.text(200, 24, "for one head; the new token on the left,\nall tokens so far on the right")
for top, name in ((46, "naive: multi-head attention"), (310, "absorbed: multi-query attention")):
    d.box(6, top, 388, 250, fill="#FAFAFA", line="#BBBBBB")
    d.text(18, top + 18, name, bold=True, anchor="start")

y = 46
rank_box(18, y + 36, 112, "q: 128 + 64", pale(BLUE, 0.4))
rank_box(224, y + 36, 160, "cache, a row a token", HATCH)
d.text(384, y + 86, "latent 512 + position 64", anchor="end")
d.arrow([(350, y + 98), (350, y + 136)])
d.text(342, y + 117, "× W_uk, W_uv of each token", anchor="end", colour="#D55E00")
rank_box(224, y + 136, 160, "key 192, value 128", pale(GREEN, 0.45))
rank_box(66, y + 136, 116, "softmax(q · k)", pale(PURPLE, 0.4))
d.arrow([(40, y + 72), (40, y + 154), (66, y + 154)])
d.arrow([(224, y + 154), (182, y + 154)])
rank_box(66, y + 206, 116, "o: 128", pale(ORANGE, 0.45))
d.arrow([(124, y + 172), (124, y + 206)])
d.text(134, y + 189, "sum of values", anchor="start")

y = 310
rank_box(18, y + 36, 132, "q: 128 + 64", pale(BLUE, 0.4))
rank_box(18, y + 120, 132, "q wide: 512 + 64", pale(BLUE, 0.55))
d.arrow([(40, y + 72), (40, y + 120)])
d.text(50, y + 96, "× W_ukᵀ, once", anchor="start", colour="#009E73")
rank_box(224, y + 36, 160, "cache, a row a token", HATCH)
d.text(356, y + 96, "as keys: all 576,\nas values: the first 512", anchor="end")
d.arrow([(370, y + 72), (370, y + 120)])
rank_box(224, y + 120, 160, "softmax(q · c)", pale(PURPLE, 0.4))
d.arrow([(150, y + 138), (224, y + 138)])
rank_box(224, y + 184, 160, "sum of c: 512", pale(ORANGE, 0.2))
d.arrow([(304, y + 156), (304, y + 184)])
rank_box(18, y + 184, 132, "o: 128", pale(ORANGE, 0.45))
d.arrow([(224, y + 202), (150, y + 202)])
d.text(18, y + 234, "× W_uv, once", anchor="start", colour="#009E73")
d.text(384, y + 234, "one key for 128 heads", anchor="end", bold=True)
d.save(__file__)
