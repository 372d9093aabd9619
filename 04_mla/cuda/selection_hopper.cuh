/*
 * Sparse attention on Hopper: what the forward and the backward pass share.
 *
 * With absorbed queries all heads of a query read the same rows, the listed latents: key and value
 * of every head. So a block takes one query and a tile of 64 of its heads, and the rows that the
 * list names, 64 at a time, are the operand that the heads share. That is what makes a list as good
 * for the tensor cores as a text: the product is 64 heads x 64 listed keys.
 *
 * Rows lie anywhere, and TMA's boxes do not: cp.async fetches them, 16 bytes a thread, eight
 * threads to the 128 bytes that a row has of a box, into wgmma's swizzled layout.
 */
#ifndef SELECTION_HOPPER_CUH
#define SELECTION_HOPPER_CUH

#include "04_mla/cuda/latent_boxes.cuh"
#include "04_mla/selection.h"

size_t selected_backward_hopper_scratch(const Gpu *gpu, SelectedShape shape);

namespace sparse {

enum {
    VALUE_BOXES = RANK / 64,
    KEYS = 64 /* listed keys of a step */
};

/* What the kernels are told. */
struct Arguments {
    SelectedShape s;
    const bf16 *q, *latent;
    const int32_t *lists, *counts;
    int sets; /* tiles of a query's heads */
    float scale_log2;
};

static inline Arguments arguments(const void *q, const void *latent, const void *work,
                                  const SelectedShape &s) {
    Arguments a = {s, (const bf16 *)q, (const bf16 *)latent, (const int32_t *)work};
    a.counts = a.lists + (int64_t)s.attention.batch * s.attention.q_len * s.count;
    a.sets = (int)ceil_div(s.attention.heads, TILE);
    a.scale_log2 = s.attention.scale * 1.44269504f;
    return a;
}

#if HOPPER_CODE

/* Row `row` of a stack of COUNT boxes gets this thread's piece of each; zeros if from is NULL. */
template <int COUNT>
__device__ __forceinline__ void fetch_row(bf16 *boxes, int row, const bf16 *from) {
    int piece = threadIdx.x % 8;
    char *to = (char *)boxes + row * 128 + ((piece ^ row % 8) * 16);
    const bf16 *source = from ? from + piece * 8 : NULL;
#pragma unroll
    for (int box = 0; box < COUNT; box++)
        cp_async_16(to + box * BOX_BYTES, source + box * 64, from != NULL);
}

/* The row of entry e of a query's list; NULL: there is none. */
__device__ __forceinline__ const bf16 *listed_row(const Arguments &a, int b, const int32_t *list,
                                                  int count, int e) {
    if (e >= count) return NULL;
    return a.latent + selected_at(&a.s, a.s.attention.k, b, list[e], 0);
}

#endif /* HOPPER_CODE */

} /* namespace sparse */
#endif
