/*
 * Solution 07.7: a score sums over 96 + 32 numbers, so the scale is 1 / sqrt(128). (Tempting: 1 /
 * sqrt(96), as if the rotated part were apart from it.) ln 16 = 2.7726, so m(0.5) = 1.1386 and
 * m(1) = 1.2773. The score has q and k in it, so it is multiplied by m(0.5)^2. (Tempting: by m
 * once; and by m(1), but mscale has a part in cos and sin alone.) These get m(1) / m(0.5).
 *
 * V2: m = 0.0707 ln 40 + 1 = 1.2608, and its square. On cos and sin stands m / m = 1.
 */
extern const double plain_scale, yarn_scale, attention_factor, v2_scores;

const double plain_scale = 0.0884;
const double yarn_scale = 0.1146;
const double attention_factor = 1.1218;
const double v2_scores = 1.590;
