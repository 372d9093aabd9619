/*
 * How the GPU's blocks share the pages of all sequences, and how a sequence that several blocks
 * worked on becomes one again.
 *
 * Sequences have different lengths, and only the device knows them. So all work is put in one line:
 * for every sequence, for every group of its rows, its pages. Each block takes an equal piece of
 * that line. It finds its place by adding up the lengths, a few microseconds for a large batch.
 *
 *     line    | sequence 0, group 0 | sequence 0, group 1 | sequence 1, group 0 | ...
 *     blocks  |--- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|--- 4 ---|--- ...
 *
 * Whatever the lengths are, every processor reads the same number of pages, give or take one. A
 * block writes the output of a group that it has whole. Of a group that it shares with other blocks
 * it leaves m, l and o (chapter 02's online softmax, to base 2) in scratch: at most two, the first
 * group of its piece and the last. Block i puts them in slots 2 i (a group that began before the
 * piece) and 2 i + 1 (one that begins in it and goes on), so the reader needs no list.
 */
#ifndef MLA_DECODE_CUH
#define MLA_DECODE_CUH

#include "04_mla/mla_decode.h"
#include "common/cuda/gpu.cuh"

/* Fewer pages are not worth a block: joining them would take longer than reading them. Narrow rows
 * are joined sooner. */
__host__ __device__ static inline int mla_least_pages(const MlaDecodeShape &s) {
    return s.kv_lora_rank <= 128 ? 1 : 2;
}

/* Query heads times queries: what one page of latents is good for. */
__host__ __device__ static inline int mla_rows(const MlaDecodeShape &s) {
    return s.q_len * s.heads;
}
__device__ __forceinline__ int mla_pages(const int32_t *lengths, int b) {
    return (lengths[b] + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

/* Pages in the line before sequence b; called by a whole warp. b = batch: the whole line. */
__device__ __forceinline__ int mla_line_before(const int32_t *lengths, int b, int groups) {
    int pages = 0;
    for (int i = threadIdx.x % 32; i < b; i += 32) pages += mla_pages(lengths, i);
    for (int offset = 16; offset; offset /= 2) pages += __shfl_xor_sync(~0u, pages, offset);
    return pages * groups;
}

/* A block's piece of the line: so many pages, if the line is `line` pages long. */
__host__ __device__ static inline int mla_share(int line, int blocks, const MlaDecodeShape &s) {
    int share = (line + blocks - 1) / blocks, least = mla_least_pages(s);
    return share < least ? least : share;
}

/* One block's way along its piece, group by group. All threads have the same numbers. */
struct MlaWalk {
    int block;        /* whose piece */
    int at, end;      /* where in the line, and where the piece ends */
    int b, line_b;    /* the sequence, and where it begins in the line */
    int group;        /* of rows */
    int first, count; /* its pages first .. first + count - 1 are this block's */
    int slot;         /* where m, l and o of a shared group go; -1: the group is not shared */

    /* Finds the first group; called by whole warps. */
    __device__ void begin(const int32_t *lengths, const MlaDecodeShape &s, int groups,
                          int block_ = blockIdx.x, int blocks = gridDim.x) {
        block = block_;
        int lane = threadIdx.x % 32, batch = s.batch,
            line = mla_line_before(lengths, batch, groups);
        int share = mla_share(line, blocks, s);
        at = min(block * share, line);
        end = min(at + share, line);
        count = 0;
        line_b = 0;
        for (b = 0; at < end; b += 32) { /* 32 sequences at a time */
            int pages = b + lane < batch ? mla_pages(lengths, b + lane) * groups : 0, sum = pages;
            for (int offset = 1; offset < 32; offset *= 2) {
                int left = __shfl_up_sync(~0u, sum, offset);
                if (lane >= offset) sum += left;
            }
            unsigned behind = __ballot_sync(~0u, at < line_b + sum);
            int hit = behind ? __ffs(behind) - 1 : 31;
            line_b += __shfl_sync(~0u, behind ? sum - pages : sum, hit);
            if (behind) {
                b += hit;
                return;
            }
        }
    }
    /* The next group of the piece; false at its end. */
    __device__ bool next(const int32_t *lengths, int groups) {
        at += count;
        if (at >= end) return false;
        int pages = mla_pages(lengths, b);
        if (at == line_b + pages * groups) {
            line_b = at;
            pages = mla_pages(lengths, ++b);
        }
        group = (at - line_b) / pages;
        first = (at - line_b) % pages;
        count = min(pages - first, end - at);
        slot = count == pages ? -1 : 2 * block + (first == 0);
        return true;
    }
};

/* A state in scratch: m, l, o[kv_lora_rank]; slots hold one for each row of a group. */
__device__ __forceinline__ float *mla_state(float *scratch, int slot, int group_rows, int row,
                                            const MlaDecodeShape &s) {
    return scratch + ((int64_t)slot * group_rows + row) * (s.kv_lora_rank + 2);
}
static inline size_t mla_states_bytes(int blocks, int group_rows, const MlaDecodeShape &s) {
    return sizeof(float) * 2 * (size_t)blocks * group_rows * (size_t)(s.kv_lora_rank + 2);
}

/* Joins what `blocks` blocks left in scratch; group_rows rows make a group. */
void mla_decode_join(Gpu *gpu, DType dtype, void *o, const float *scratch, const int32_t *lengths,
                     const MlaDecodeShape &s, int group_rows, int blocks);

/* What rungs need. */
size_t mla_decode_mma_scratch(Gpu *gpu, MlaDecodeShape shape);
size_t mla_decode_e4m3_scratch(Gpu *gpu, MlaDecodeShape shape);

/* A rung's pieces, for a kernel that joins them itself: how many rows make a group, and how many
 * blocks shared the line. Groups that one block had whole are in o. */
struct MlaPieces {
    int group_rows, blocks;
};
MlaPieces mla_decode_mma_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                const void *latent, const int32_t *block_table,
                                const int32_t *lengths, const MlaDecodeShape &s);
MlaPieces mla_decode_e4m3_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                 const void *latent, const int32_t *block_table,
                                 const int32_t *lengths, const MlaDecodeShape &s);
MlaPieces mla_decode_e4m3_hopper_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                        const void *latent, const int32_t *block_table,
                                        const int32_t *lengths, const MlaDecodeShape &s);
MlaPieces mla_decode_split_pieces(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                                  const void *latent, const int32_t *block_table,
                                  const int32_t *lengths, const MlaDecodeShape &s);

/*
 * What the blocks left of one sequence's rows. After of_row(r): row r was worked on by `count`
 * blocks, and piece i of it is m, l, o[kv_lora_rank] at [i]. Count 1: there is no piece, the row is
 * in the output. Both are called by whole warps.
 */
struct MlaJoin {
    const float *scratch, *first, *others;
    int64_t state, slot; /* numbers of a state, and of a slot: a group's states */
    int share, line_b, pages, group_rows, count;

    __device__ MlaJoin(const float *scratch_, const int32_t *lengths, const MlaDecodeShape &s,
                       MlaPieces p, int b)
        : scratch(scratch_), state(s.kv_lora_rank + 2), slot(p.group_rows * state),
          group_rows(p.group_rows) {
        int groups = (mla_rows(s) + group_rows - 1) / group_rows;
        share = mla_share(mla_line_before(lengths, s.batch, groups), p.blocks, s);
        line_b = mla_line_before(lengths, b, groups), pages = mla_pages(lengths, b);
    }
    __device__ void of_row(int r) {
        int begin = line_b + r / group_rows * pages; /* the group's place in the line */
        int block = begin / share;
        count = (begin + pages - 1) / share - block + 1;
        first = scratch + (2 * block + 1) * slot + r % group_rows * state;
        others = first + slot; /* slots 2 (block + 1), 2 (block + 2), ... */
    }
    __device__ const float *operator[](int i) const {
        return i ? others + 2 * (i - 1) * slot : first;
    }
};

#endif
