/*
 * Solution 10.22: (a, n) stands 4 + 2 2 + 3 = 11 times. Then (b, an) and (space, b) have 6 each,
 * and b comes before the space. Then (space, ban) has 6. Then (c, an) and (space, c) have 3 each.
 * (Tempting: " banana" as a whole, which is a word: but a merge joins two tokens that stand side
 * by side, and it occurs twice. And "nan" or "ana" second: (n, a) has fallen to nothing, for its n
 * was used up by the first merge.) " bananas" is " ban", "an", "a", "s": merges are applied in the
 * order learned, and no pair that is left was ever merged.
 */
extern const char *const merges[4];
extern const int tokens;

const char *const merges[4] = {"an", "ban", " ban", "can"};
const int tokens = 4;
