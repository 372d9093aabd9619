/*
 * The lesson's numbers, as the program computes them.
 */
#include "07_rope/rope.h"

#include "common/program/testing.h"

#include <math.h>

/* q = (3, 1) and k = (2, 1) at places 0 .. 4, a quarter turn for each: the table of the lesson. */
Test(by_hand, quarter_turns) {
    enum { PLACES = 5 };
    static const float cosines[] = {1, 0, -1, 0, 1}, sines[] = {0, 1, 0, -1, 0};
    static const int32_t places[] = {0, 1, 2, 3, 4};
    static const float turned_q[] = {3, 1, -1, 3, -3, -1, 1, -3, 3, 1};
    static const float of_distance[] = {7, 1, -7, -1, 7}; /* q . k when k is that far behind */
    float q[] = {3, 1, 3, 1, 3, 1, 3, 1, 3, 1}, k[] = {2, 1, 2, 1, 2, 1, 2, 1, 2, 1};
    rope_rotate_cpu((RopePart){q, 1, 2, 0}, (RopePart){k, 1, 2, 0}, cosines, sines, places, PLACES,
                    2, PLACES, ROPE_INTERLEAVED, 0);
    check_close("q", q, turned_q, 2 * PLACES, 0);
    for (int p = 0; p < PLACES; p++)
        for (int s = 0; s <= p; s++) {
            float product = q[2 * p] * k[2 * s] + q[2 * p + 1] * k[2 * s + 1];
            cr_assert(product == of_distance[p - s], "q at %d times k at %d is %g", p, s, product);
        }
}

/* Four pairs, theta 10000, trained on 628 = 2 pi 100 tokens, stretched ten times. */
Test(by_hand, four_pairs_stretched) {
    static const double expected[4][4] = {{1, 0.1, 0.01, 0.001},        /* as trained */
                                          {0.1, 0.01, 0.001, 0.0001},   /* PI */
                                          {1, 0.0464, 0.00215, 0.0001}, /* NTK */
                                          {1, 0.055, 0.001, 0.0001}};   /* YaRN */
    static const RopeType types[] = {ROPE_DEFAULT, ROPE_LINEAR, ROPE_NTK, ROPE_YARN};
    double low, high, f[4];
    for (int way = 0; way < 4; way++) {
        RopeConfig cfg = rope_config(8, 6280);
        cfg.rope_type = types[way];
        cfg.factor = 10;
        cfg.original_max_position_embeddings = 628;
        rope_frequencies(&cfg, f);
        for (int i = 0; i < 4; i++) /* the lesson writes three digits */
            cr_assert(fabs(f[i] / expected[way][i] - 1) <= 3e-3, "way %d, pair %d: %g, not %g", way,
                      i, f[i], expected[way][i]);
        rope_yarn_range(&cfg, &low, &high);
        cr_assert(low == 0 && high == 2, "the ramp is from %g to %g", low, high);
    }
}
