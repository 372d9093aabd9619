/*
 * What the tests of quantised weights share: formats, and weights of random codes.
 */
#ifndef TEST_QUANTISED_H
#define TEST_QUANTISED_H

#include "08_quant/quantised.h"

#include "common/core/params.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One weight and how it is held. */
typedef struct HeldCase {
    DType dtype;
    int block_out, block_in;
    int64_t experts, out, in; /* experts 0: [out, in] */
} HeldCase;

static const HeldCase held_cases[] = {
    {U8, 1, 1, 0, 1, 1},
    {U8, 1, 31, 0, 33, 31},
    {U8, 1, 127, 0, 65, 127},
    {U8, 1, 256, 0, 70, 256},
    {U8, 1, 64, 0, 17, 192},
    {U8, 1, 128, 0, 130, 384},
    {U8, 1, 32, 0, 9, 96},
    {U8, 1, 20, 0, 12, 60},
    {U8, 1, 256, 0, 5, 512},
    {I4, 1, 32, 0, 1, 32},
    {I4, 1, 32, 0, 33, 160},
    {I4, 1, 64, 0, 31, 192},
    {I4, 1, 128, 0, 67, 128},
    {I4, 1, 128, 0, 127, 640},
    {I4, 1, 32, 0, 6, 1024},
    {F8_E4M3, 128, 128, 0, 1, 1},
    {F8_E4M3, 128, 128, 0, 160, 192},
    {F8_E4M3, 128, 128, 0, 300, 257},
    {F8_E4M3, 1, 128, 0, 12, 130},
    {F8_E4M3, 16, 33, 0, 40, 70},
};
enum { HELD_CASES = sizeof held_cases / sizeof *held_cases };

/* Random codes, all but E4M3's NaN, and scales that make numbers of about 0.05. */
static inline void held_fill(Params *params, Tensor *t, uint64_t stream) {
    int64_t bytes = (int64_t)tensor_bytes(t), scales = tensor_count(&t->quantised->scale);
    uint8_t *codes = must_alloc((size_t)bytes, 1);
    float *scale = must_alloc((size_t)scales, sizeof *scale);
    for (int64_t i = 0; i < bytes; i++) {
        codes[i] = (uint8_t)(philox(9, stream, (uint64_t)i).word[0] >> 8);
        if (t->dtype == F8_E4M3 && (codes[i] & 0x7f) == 0x7f) codes[i] = 0x80;
    }
    float most = t->dtype == F8_E4M3 ? 0.0001f : t->dtype == U8 ? 0.0003f : 0.005f;
    for (int64_t i = 0; i < scales; i++)
        scale[i] = most * (2 + 3 * rng_uniform(9, stream + 1000, (uint64_t)i));
    params_set_codes(params, t, codes, scale);
    free(codes), free(scale);
}

/* A quantised weight and a plain one with the same numbers. */
typedef struct Pair {
    Params params;
    Tensor *held, *plain;
} Pair;

static inline void pair_init(Pair *p, Context *ctx, const HeldCase *c,
                             const QuantisedProducts *products) {
    Error err = {0};
    int64_t shape[3] = {c->experts, c->out, c->in};
    int skip = c->experts == 0;
    params_init(&p->params, ctx);
    p->held = params_new(&p->params, NULL, "held", shape + skip, 3 - skip);
    p->plain = params_new(&p->params, NULL, "plain", shape + skip, 3 - skip);
    params_set_quantised(&p->params, p->held, c->dtype, c->block_out, c->block_in, products);
    check_ok(params_allocate(&p->params, false, &err), &err);
    held_fill(&p->params, p->held, 1);
    float *numbers = test_floats(tensor_count(p->plain));
    params_get(&p->params, p->held, numbers);
    params_set(&p->params, p->plain, numbers);
    free(numbers);
}

#endif
