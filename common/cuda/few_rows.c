/*
 * What the kernels for few rows are told of a weight. Here it is decided what they take; nothing
 * else of them looks at a Tensor.
 */
#include "common/cuda/few_rows.h"

/* The n with 2^n = x, or -1. */
static int log2_of(int64_t x) {
    for (int n = 0; n < 31; n++)
        if (x == (int64_t)1 << n) return n;
    return -1;
}

FewRowsWeight few_rows_numbers(const void *data, DType dtype, int64_t out, int64_t in) {
    CHECK(in <= INT32_MAX, "a weight of %lld columns", (long long)in);
    return (FewRowsWeight){.data = data, .out = out, .in = (int)in, .dtype = dtype};
}

FewRowsWeight few_rows_weight(const Tensor *t) {
    if (!t) return (FewRowsWeight){0};
    FewRowsWeight w =
        few_rows_numbers(t->data, t->dtype, tensor_dim(t, -2 + (t->ndim == 1)), tensor_dim(t, -1));
    const Quantised *q = t->quantised;
    if (!q) return w;
    w.scale = q->scale.data;
    w.scales = (int)tensor_dim(&q->scale, -1), w.scale_rows = (int)tensor_dim(&q->scale, -2);
    w.in_shift = log2_of(q->block_in);
    if (w.in_shift < 0 && q->block_in >= w.in) w.in_shift = 31; /* whole rows */
    w.out_shift = log2_of(q->block_out);
    return w;
}

bool few_rows_weight_supports(const FewRowsWeight *w, DType dtype) {
    bool codes = w->dtype == U8 || w->dtype == I4 || w->dtype == F8_E4M3;
    if (!w->data) return true;
    if (w->in % 32 || w->in > INT32_MAX / 64 || (uintptr_t)w->data % 16) return false;
    if (!w->scale) return w->dtype == dtype;
    return dtype == BF16 && codes && w->in_shift >= 5 && w->out_shift >= 0;
}

bool few_rows_same_kind(const FewRowsWeight *a, const FewRowsWeight *b) {
    return !a->data || !b->data || (a->dtype == b->dtype && !a->scale == !b->scale);
}
