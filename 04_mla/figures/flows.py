"""Latent attention in two ways, with V3's sizes: naive (keys and values are made) and absorbed (the query is made wide)."""

from drawing import BLUE, GREEN, HATCH, ORANGE, PURPLE, Drawing, pale

d = Drawing(620, 560, "MLA as two data flows: naive makes keys and values from the latents, absorbed takes the matrices to the query")


def rank_box(x, y, w, text, fill, **look):
    d.box(x, y, w, 36, text, fill=fill, size=13, **look)


# what both have: the new token's query, the cache
d.text(310, 20, "for one head; the new token on the left, all tokens so far on the right", size=14)
for top, name in ((40, "naive: multi-head attention"), (304, "absorbed: multi-query attention")):
    d.box(8, top, 604, 248, fill="#FAFAFA", line="#BBBBBB")
    d.text(20, top + 18, name, bold=True, anchor="start")

y = 40
rank_box(24, y + 36, 130, "q: 128 + 64", pale(BLUE, 0.4))
rank_box(420, y + 36, 176, "cache, a row a token", HATCH)
d.text(508, y + 86, "latent 512 + position 64", size=13)
rank_box(420, y + 128, 176, "key 192, value 128", pale(GREEN, 0.45))
d.arrow([(508, y + 98), (508, y + 128)])
d.text(414, y + 112, "× W_uk, W_uv\nof each token", size=13, anchor="end", colour="#D55E00")
rank_box(196, y + 128, 120, "softmax(q · k)", pale(PURPLE, 0.4))
d.arrow([(89, y + 72), (89, y + 146), (196, y + 146)])
d.arrow([(420, y + 146), (316, y + 146)])
rank_box(196, y + 198, 120, "o: 128", pale(ORANGE, 0.45))
d.arrow([(256, y + 164), (256, y + 198)])
d.text(264, y + 180, "sum of values", size=13, anchor="start")

y = 304
rank_box(24, y + 36, 130, "q: 128 + 64", pale(BLUE, 0.4))
rank_box(24, y + 118, 130, "q wide: 512 + 64", pale(BLUE, 0.55))
d.arrow([(89, y + 72), (89, y + 118)])
d.text(98, y + 95, "× W_ukᵀ, once", size=13, anchor="start", colour="#009E73")
rank_box(420, y + 118, 176, "cache, a row a token", HATCH)
d.text(508, y + 176, "as keys: all 576 numbers,\nas values: the first 512", size=13)
rank_box(210, y + 118, 120, "softmax(q · c)", pale(PURPLE, 0.4))
d.arrow([(154, y + 136), (210, y + 136)])
d.arrow([(420, y + 136), (330, y + 136)])
rank_box(210, y + 190, 120, "sum of c: 512", pale(ORANGE, 0.2))
d.arrow([(270, y + 154), (270, y + 190)])
rank_box(24, y + 190, 130, "o: 128", pale(ORANGE, 0.45))
d.arrow([(210, y + 208), (154, y + 208)])
d.text(182, y + 236, "× W_uv, once", size=13, colour="#009E73")
d.text(508, y + 222, "one key for 128 heads", size=13, bold=True)
d.save(__file__)
