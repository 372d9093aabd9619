/*
 * Rows of a latent cache in eight bits: the rule of the scales by hand, every code, what a row
 * loses, and the kernels that write and read them.
 */
#include "04_mla/tests/test_mla.h"

Test(latent_row, sizes) {
    check_all(latent_row_bytes(512, 64) == 656, latent_row_scales(512) == 512,
              latent_row_key(512) == 528, latent_row_bytes(128, 32) == 196,
              latent_row_bytes(32, 16) == 68, latent_row_key(192) == 200,
              latent_row_bytes(4, 0) == 8);
}

/* 2^ceil(log2(max(amax / 448, 1e-4))); 2^-13 is the first power of two above 1e-4. */
Test(latent_row, scales_by_hand) {
    static const float cases[][2] = {{0, 0x1p-13f},
                                     {448, 1},
                                     {449, 2},
                                     {447, 1},
                                     {56, 0x1p-3f},
                                     {896, 2},
                                     {0.0546f, 0x1p-13f},
                                     {0.0548f, 0x1p-12f},
                                     {1, 0x1p-8f},
                                     {3e38f, 0x1p120f}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert(latent_row_scale(cases[i][0]) == cases[i][1], "%g: %g, not %g", cases[i][0],
                  latent_row_scale(cases[i][0]), cases[i][1]);
    check_all(isnan(latent_row_scale(NAN)), isnan(latent_row_scale(INFINITY)));
}

/* A number that E4M3 has comes back, in all groups but for a power of two; so do zeros and keys. */
Test(latent_row, every_code_comes_back) {
    enum { C = 512, K = 6 };
    float c[C], k[K] = {1, -2, 0x1.02p0f, 0, 3e38f, 1e-20f}, c_back[C], k_back[K];
    uint8_t row[1024];
    for (int i = 0; i < C; i++) {
        uint8_t code = (uint8_t)(i % 128 | (i / 128 % 2 ? 0x80 : 0));
        if ((code & 0x7f) == 0x7f) code = 0;
        c[i] = ldexpf(e4m3_to_float(code), 3 * (i / 128) - 4);
    }
    for (int i = 0; i < K; i++) k[i] = bf16_to_float(bf16_from_float(k[i]));
    latent_row_write_cpu(row, c, k, C, K);
    latent_row_read_cpu(c_back, k_back, row, C, K);
    check_close("c", c_back, c, C, 0);
    check_close("k", k_back, k, K, 0);
    memset(c, 0, sizeof c);
    latent_row_write_cpu(row, c, k, 200, K);
    latent_row_read_cpu(c_back, k_back, row, 200, K);
    check_close("zeros", c_back, c, 200, 0);
    check_close("k", k_back, k, K, 0);
}

/* A half of E4M3's last place, 2^-4 of the number, or 2^-10 scales where that is more; and a group
 * with a NaN or an infinity is NaN, the next one is not. */
Test(latent_row, loses_half_a_place) {
    enum { C = 260 };
    float c[C], back[C];
    uint8_t row[512];
    for (int i = 0; i < C; i++) c[i] = ldexpf(cosf((float)(i * i)), -(i % 12));
    latent_row_write_cpu(row, c, NULL, C, 0);
    latent_row_read_cpu(back, NULL, row, C, 0);
    for (int i = 0; i < C; i++) /* the largest is about 1: scales are at most 2^-8 */
        cr_assert(fabsf(back[i] - c[i]) <= fmaxf(fabsf(c[i]) * 0x1p-4f, 0x1p-18f), "%g: %g", c[i],
                  back[i]);
    c[130] = NAN, c[257] = -INFINITY;
    latent_row_write_cpu(row, c, NULL, C, 0);
    latent_row_read_cpu(back, NULL, row, C, 0);
    check_all(!isnan(back[127]), isnan(back[128]), isnan(back[255]), isnan(back[256]),
              isnan(back[259]));
}

/* What is appended lies in the pool as the CPU's function writes it, byte by byte, and is read
 * back; the prompt in one piece, then two tokens. */
CONTEXT_TEST(latent_row, append_and_gather) {
    static const int widths[][2] = {{512, 64}, {128, 32}, {36, 2}, {260, 0}};
    enum { B = 2, T = 70 };
    for (int i = 0; i < 4; i++) {
        Pages pages;
        LatentCache cache;
        int C = widths[i][0], K = widths[i][1];
        check_ok(pages_init(&pages, &ctx, B, 200, 0, &err), &err);
        check_ok(latent_cache_init_e4m3(&cache, &ctx, &pages, C, K, &err), &err);
        test_poison(&ctx, &cache.latent);
        Tensor *c = test_normal(&ctx, "c", 1, SHAPE(B, T, C));
        Tensor *k = test_normal(&ctx, "k", 2, SHAPE(B, T, K ? K : 1));
        check_ok(pages_begin(&pages, T, &err), &err);
        latent_cache_append(&ctx, &cache, c, K ? k : NULL);
        float *ch = test_values(&ctx, c), *kh = test_values(&ctx, k);
        int64_t bytes = latent_row_bytes(C, K), size = (int64_t)tensor_bytes(&cache.latent);
        uint8_t *pool = malloc((size_t)size), want[1024];
        device_get(ctx.gpu, pool, cache.latent.data, (size_t)size);
        float *c_want = test_floats(B * T * C), *k_want = test_floats(B * T * K + 1);
        for (int row = 0; row < B * T; row++) {
            int32_t *table = pages.table + row / T * pages.max_pages;
            latent_row_write_cpu(want, ch + row * C, kh + row * K, C, K);
            cr_assert(!memcmp(pool + page_row(table, row % T) * bytes, want, (size_t)bytes),
                      "%d + %d: row %d", C, K, row);
            latent_row_read_cpu(c_want + row * C, k_want + row * K, want, C, K);
        }
        Tensor *c_back = tensor_new(&ctx, "c", ctx.dtype, SHAPE(B, T, C));
        Tensor *k_back = tensor_new(&ctx, "k", ctx.dtype, SHAPE(B, T, K ? K : 1));
        test_poison(&ctx, c_back), test_poison(&ctx, k_back);
        latent_cache_gather(&ctx, &cache, c_back->data, k_back->data, 0, B, T, C);
        check_tensor(&ctx, "c", c_back, c_want, 0); /* three bits: BF16 has them, too */
        if (K) check_tensor(&ctx, "k", k_back, k_want, 0);
        latent_cache_free(&cache), pages_free(&pages);
    }
}

/* A module that decodes from such a cache, against one whose cache has the same numbers: naive and
 * absorbed. */
CONTEXT_TEST(latent_row, a_module_decodes_from_it) {
    const MlaConfig cfg = {64, 2, 32, 32, 16, 8, 16, false};
    Module m;
    module_init(&m, &ctx, cfg);
    for (int mode = 0; mode < 2; mode++) {
        Pages pages;
        LatentCache eight;
        OneLayer plain;
        check_ok(pages_init(&pages, &ctx, 2, 100, 0, &err), &err);
        check_ok(latent_cache_init_e4m3(&eight, &ctx, &pages, 32, 8, &err), &err);
        one_layer_init(&plain, &ctx, 2, 100, 0, 40);
        for (int step = 0, T = 66; step < 3; step++, T = 1) {
            Tensor *x = test_normal(&ctx, "x", (uint64_t)step, SHAPE(2, T, 64));
            check_ok(pages_begin(&pages, T, &err), &err);
            Tensor *y = mla_forward(&ctx, x, &m.w, &cfg, NULL, NULL, &eight,
                                    mode ? MLA_ABSORBED : MLA_NAIVE, (Residual){0});
            Tensor *z = cached_forward(&ctx, x, &m.w, &cfg, NULL, &plain, MLA_ABSORBED);
            /* 2^-5 for a number in the mean, of values and of keys */
            check_tensor(&ctx, "y", y, test_values(&ctx, z), 0x1p-4);
        }
        latent_cache_free(&eight), pages_free(&pages);
    }
}
