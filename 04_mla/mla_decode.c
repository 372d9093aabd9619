/*
 * Absorbed decoding: what its sizes may be, and what it costs. The kernels are in mla_decode_cpu.c
 * and mla_decode_*.cu.
 */
#include "04_mla/mla_decode.h"

void mla_decode_check(const char *where, const MlaDecodeShape *s) {
    CHECK(s->batch > 0 && s->q_len > 0 && s->heads > 0, "%s: batch %d, q_len %d, heads %d", where,
          s->batch, s->q_len, s->heads);
    CHECK(s->batch <= 65535, "%s: %d sequences; a grid of the GPU holds 65535", where, s->batch);
    CHECK(s->kv_lora_rank > 0 && s->rope_dim >= 0 &&
              s->kv_lora_rank <= MLA_DECODE_MAX_WIDTH - s->rope_dim,
          "%s: kv_lora_rank %d, rope_dim %d: the kernels hold rows of 1 to %d numbers", where,
          s->kv_lora_rank, s->rope_dim, MLA_DECODE_MAX_WIDTH);
    CHECK(!s->e4m3 || (s->kv_lora_rank % 4 == 0 && s->rope_dim % 2 == 0),
          "%s: kv_lora_rank %d, rope_dim %d: rows of eight bits have multiples of 4 and 2", where,
          s->kv_lora_rank, s->rope_dim);
    CHECK(s->max_length >= s->q_len,
          "%s: %d queries, but sequences of at most %d tokens: the first queries would see nothing",
          where, s->q_len, s->max_length);
    CHECK(s->pages > 0 && s->max_length <= (int64_t)s->max_pages * PAGE_TOKENS,
          "%s: max_length %d, but the block table has %d pages of %d tokens for each sequence",
          where, s->max_length, s->max_pages, PAGE_TOKENS);
    /* The GPU's kernels number pairs of a page and eight rows of queries in an int. */
    int64_t rows = (int64_t)s->q_len * s->heads, pages = s->max_length / PAGE_TOKENS + 1;
    CHECK(rows < 1 << 30 && s->batch * ((rows + 7) / 8) * pages < 1 << 30,
          "%s: batch %d, q_len %d, heads %d, max_length %d: decode in smaller chunks", where,
          s->batch, s->q_len, s->heads, s->max_length);
}

double mla_decode_flop(MlaDecodeShape s, int length) {
    return 2.0 * s.batch * s.q_len * s.heads * length * (2.0 * s.kv_lora_rank + s.rope_dim);
}

double mla_decode_bytes(MlaDecodeShape s, int length, DType dtype) {
    double width = s.kv_lora_rank + s.rope_dim, rows = (double)s.q_len * s.heads;
    double size = (double)dtype_size(dtype), row = width * size;
    if (s.e4m3) row = (double)latent_row_bytes(s.kv_lora_rank, s.rope_dim);
    return s.batch * (size * (rows * width + rows * s.kv_lora_rank) + length * row);
}
