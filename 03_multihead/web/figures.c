/*
 * Figures of chapter 03 for the book: what a cache takes for the reader's numbers of heads, and
 * what sharing keys does to the attention of heads that share them.
 */
#include "03_multihead/heads.h"
#include "03_multihead/kv_cache.h"
#include "common/program/web.h"

#include <math.h>

/* layers, heads, head_dim, groups (key heads of GQA, made a divisor of heads), tokens, bytes (of a
 * number: 1, 2, 4) -> per_token [3]: MHA, GQA, MQA; fits: tokens in 80 GB with each. */
WEB(cache) {
    int layers = web_int("layers", 1, 200), heads = web_int("heads", 1, 256);
    int head_dim = web_int("head_dim", 1, 512), groups = web_int("groups", 1, heads);
    int width = web_int("bytes", 1, 4);
    while (heads % groups) groups--;
    const int kv_heads[3] = {heads, groups, 1};
    double tokens = web_number("tokens", 1, 1e9), per_token[3], fits[3], all[3];
    DType dtype = width == 1 ? I8 : width == 2 ? BF16 : F32;
    for (int i = 0; i < 3; i++) {
        per_token[i] = (double)kv_cache_bytes_per_token(layers, kv_heads[i], head_dim, dtype);
        all[i] = per_token[i] * tokens;
        fits[i] = floor(80e9 / per_token[i]);
    }
    web_value("groups", groups);
    web_doubles("per_token", per_token, 3);
    web_doubles("all", all, 3);
    web_doubles("fits", fits, 3);
}

/*
 * Four query heads over key_heads key heads, random weights, the reader's words as random vectors:
 * p [4, T, T], and alike: how much of the largest possible difference is between the heads' rows.
 */
WEB(sharing) {
    enum { H = 4, D = 16, HIDDEN = 64, T = 10 };
    int kv_heads = 1 << web_int("key_heads", 0, 2);
    Context ctx;
    Params params;
    Error err;
    float p[H * T * T];
    web_context(&ctx, 3);
    params_init(&params, &ctx);
    MultiheadConfig cfg = {HIDDEN, H, kv_heads, D, false};
    Multihead w = multihead_init(&params, "self_attn", &cfg);
    if (params_allocate(&params, false, &err)) fatal("%s", err.text);
    multihead_randomize(&params, &w, 2 / sqrtf(HIDDEN), 1 / sqrtf(HIDDEN));
    Tensor *x = tensor_new(&ctx, "x", F32, SHAPE(1, T, HIDDEN));
    for (int i = 0; i < T * HIDDEN; i++) ((float *)x->data)[i] = rng_normal(7, 1, (uint64_t)i);
    for (int h = 0; h < H; h++) head_probabilities(&ctx, p + h * T * T, x, &w, &cfg, 0, h);
    double apart = 0;
    for (int h = 0; h < H; h++)
        for (int g = 0; g < h; g++)
            for (int i = 0; i < T * T; i++)
                apart +=
                    fabs((double)p[h * T * T + i] - p[g * T * T + i]) / (2.0 * T * H * (H - 1) / 2);
    web_floats("p", p, H * T * T);
    web_value("apart", apart);
    web_value("numbers", params_count(&params));
    web_value("cached", 2.0 * kv_heads * D);
    params_free(&params);
    context_free(&ctx);
}
