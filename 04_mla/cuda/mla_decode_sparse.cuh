/*
 * Absorbed decoding over lists: what its rungs have in common.
 *
 * A list names tokens of a sequence, in any order. Every rung begins by the same kernel, which
 * makes of it the rows of the pool where they lie, ascending by token and once each. From here on
 * nobody asks the block table, and every query of every sequence is a sequence of its own with one
 * query: B * q_len of them, `count` rows long at most.
 */
#ifndef MLA_DECODE_SPARSE_CUH
#define MLA_DECODE_SPARSE_CUH

#include "04_mla/cuda/mla_decode.cuh"
#include "04_mla/selection.h"

/* The lists as rows of the pool. A list that selects nothing is one row of zeros, -1, whose
 * weighted mean is zero. */
struct SelectedRows {
    const int32_t *rows;    /* [lists, count] */
    const int32_t *lengths; /* [lists] */
    const void *zeros;      /* the row of zeros */
};

/* Parts of the work: where the rows are, and what is behind them. */
struct SelectedWork {
    int32_t *rows, *lengths;
    void *zeros; /* a row of them */
    char *rest;
    size_t bytes; /* of all but the rest */
};
SelectedWork selected_decode_parts(void *work, DType dtype, int count, const MlaDecodeShape &s);

static inline size_t selected_row_bytes(DType dtype, const MlaDecodeShape &s) {
    return s.e4m3 ? (size_t)latent_row_bytes(s.kv_lora_rank, s.rope_dim)
                  : dtype_size(dtype) * (size_t)(s.kv_lora_rank + s.rope_dim);
}

/* Fills the work's rows, lengths and zeros. */
void selected_decode_begin(Gpu *gpu, const SelectedWork &w, DType dtype, const int32_t *block_table,
                           const int32_t *lengths, const int32_t *selected, int count,
                           const MlaDecodeShape &s);

/* The shape of `lists` queries, each a sequence of `count` rows, as mla_decode sees it. */
static inline MlaDecodeShape selected_as_sequences(int lists, int count, MlaDecodeShape s) {
    s.batch = lists, s.q_len = 1;
    s.max_pages = (count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    s.pages = lists * s.max_pages;
    s.max_length = count;
    return s;
}

/* Hopper's kernels, which fetch a list's rows themselves; s: selected_as_sequences(). */
void selected_e4m3_hopper(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          SelectedRows lists, const MlaDecodeShape &s);
void selected_bf16_hopper(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          SelectedRows lists, const MlaDecodeShape &s);

#endif
