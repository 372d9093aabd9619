/*
 * Figures of chapter 07 for the book: one pair that turns, what is left of two positions in a
 * product, and what each way of stretching does to the frequencies.
 */
#include "07_rope/rope.h"
#include "common/program/web.h"

#include <math.h>

enum { MAX_PAIRS = 64, DISTANCES = 512 };

/* angle (degrees a place), place_q, place_k; q = (3, 1), k = (2, 1) -> both as they stand and
 * turned, and their product; `moved`: the product when both go on by 7 places. */
WEB(pair) {
    enum { PLACES = 128 };
    float turn = (float)(web_number("angle", 0, 180) * M_PI / 180), cosines[PLACES], sines[PLACES];
    int32_t place[2] = {web_int("place_q", 0, 64), web_int("place_k", 0, 64)};
    for (int i = 0; i < PLACES; i++)
        cosines[i] = cosf(turn * (float)i), sines[i] = sinf(turn * (float)i);
    float products[2], arrows[8] = {3, 1, 2, 1};
    for (int moved = 0; moved < 2; moved++) {
        float q[2] = {3, 1}, k[2] = {2, 1};
        int32_t at_q = place[0] + 7 * moved, at_k = place[1] + 7 * moved;
        rope_rotate_cpu((RopePart){q, 1, 2, 0}, (RopePart){0}, cosines, sines, &at_q, 1, 2, PLACES,
                        ROPE_INTERLEAVED, 0);
        rope_rotate_cpu((RopePart){k, 1, 2, 0}, (RopePart){0}, cosines, sines, &at_k, 1, 2, PLACES,
                        ROPE_INTERLEAVED, 0);
        products[moved] = q[0] * k[0] + q[1] * k[1];
        if (!moved) arrows[4] = q[0], arrows[5] = q[1], arrows[6] = k[0], arrows[7] = k[1];
    }
    web_floats("arrows", arrows, 8);
    web_value("product", products[0]);
    web_value("moved", products[1]);
}

/* dim, theta, original, factor, beta_fast, beta_slow -> f [4, pairs]: default, linear, ntk, yarn;
 * turns in training; the ramp's ends; both factors of YaRN. */
WEB(stretch) {
    int dim = 2 * web_int("pairs", 2, MAX_PAIRS);
    RopeConfig cfg = rope_config(dim, 1 << 20);
    cfg.rope_theta = web_number("theta", 100, 1e7);
    cfg.factor = web_number("factor", 1, 128);
    cfg.original_max_position_embeddings = web_int("original", 64, 1 << 18);
    cfg.beta_fast = web_number("beta_fast", 1, 128);
    cfg.beta_slow = web_number("beta_slow", 0.1, cfg.beta_fast);
    cfg.mscale = cfg.mscale_all_dim = 1;
    double f[4 * MAX_PAIRS], turns[MAX_PAIRS], low, high;
    for (int type = 0; type < 4; type++) {
        cfg.rope_type = (RopeType)type;
        rope_frequencies(&cfg, f + type * dim / 2);
    }
    rope_yarn_range(&cfg, &low, &high);
    for (int i = 0; i < dim / 2; i++)
        turns[i] = cfg.original_max_position_embeddings * f[i] / (2 * M_PI);
    web_doubles("f", f, 2 * dim);
    web_doubles("turns", turns, dim / 2);
    web_value("low", low);
    web_value("high", high);
    web_value("softmax_factor", rope_softmax_factor(&cfg));
}

/* pairs, theta -> mean over pairs of cos(f d) for distances d: how much of q . q is left when the
 * key stands d tokens back. Queries and keys go through rope_rotate_cpu(). */
WEB(decay) {
    int dim = 2 * web_int("pairs", 1, MAX_PAIRS);
    RopeConfig cfg = rope_config(dim, DISTANCES);
    cfg.rope_theta = web_number("theta", 100, 1e7);
    Context ctx;
    Rope rope;
    Error err;
    web_context(&ctx, 1);
    if (rope_init(&rope, &ctx, &cfg, &err)) fatal("%s", err.text);
    Tensor *k = tensor_new(&ctx, "k", F32, SHAPE(1, DISTANCES, 1, dim));
    for (int i = 0; i < DISTANCES * dim; i++) ((float *)k->data)[i] = 1 - (float)(i % 2);
    rope_rotate(&ctx, &rope, k, 0, NULL, 0, positions_from(&ctx, 1, DISTANCES, 0));
    float left[DISTANCES];
    for (int d = 0; d < DISTANCES; d++) {
        double sum = 0; /* q = (1, 0, 1, 0, ...) at place 0 is not turned */
        for (int i = 0; i < dim; i += 2) sum += ((float *)k->data)[d * dim + i];
        left[d] = (float)(2 * sum / dim);
    }
    web_floats("left", left, DISTANCES);
    rope_free(&rope);
    context_free(&ctx);
}
