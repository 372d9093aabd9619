/* The predictions against rope_softmax_factor and rope_attention_factor. */
#include "07_rope/rope.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double plain_scale, yarn_scale, attention_factor, v2_scores;

static void check(const char *name, double predicted, double truth, double allowed) {
    cr_assert(fabs(predicted - truth) <= allowed, "%s is not %g", name, predicted);
}

Test(predict, scale) {
    RopeConfig cfg = rope_config(32, 65536);
    cfg.rope_type = ROPE_YARN;
    cfg.factor = 16;
    cfg.original_max_position_embeddings = 4096;
    cfg.mscale = 1;
    cfg.mscale_all_dim = 0.5;
    check("plain_scale", plain_scale, 1 / sqrt(96 + 32), 1e-4);
    check("yarn_scale", yarn_scale, rope_softmax_factor(&cfg) / sqrt(96 + 32), 1e-4);
    check("attention_factor", attention_factor, rope_attention_factor(&cfg), 1e-4);
    cfg.factor = 40;
    cfg.mscale = cfg.mscale_all_dim = 0.707;
    check("v2_scores", v2_scores, rope_softmax_factor(&cfg), 1e-3);
}
