/*
 * Pages: where the tokens of many sequences lie, once for all layers of a model.
 *
 * What a layer keeps of a token is a row of a pool (latent_cache.h). Pools are cut into pages of
 * PAGE_TOKENS rows; a sequence is a list of page numbers, its line of the block table, so sequences
 * of different lengths share a pool without gaps (Kwon et al. 2023, "PagedAttention"):
 *
 *     row of token t of sequence b  =  pool[ block_table[b][t / PAGE_TOKENS] ][ t % PAGE_TOKENS ]
 *
 * All layers keep the same tokens. So table and lengths exist once, and any number of pools, with
 * rows of any width, follow them. A step of T new tokens is
 *
 *     pages_begin(pages, T)    makes room for T more tokens in every sequence, and counts them
 *     each layer, each pool    writes rows lengths[b] - T .. lengths[b] - 1 and reads the first
 *                              lengths[b]: a length always includes the step's tokens
 *     pages_rewind(...)        perhaps: the last of them were wrong guesses
 *
 * Invariants: tokens 0 .. lengths[b] - 1 of sequence b are valid, and what lies behind is not read;
 * a page belongs to one sequence or to the free list, never to two. Block table and lengths are on
 * the device, where the kernels read them; the host keeps a copy of both to decide with. Pages are
 * handed out before anything is written, so a step that has begun cannot fail.
 */
#ifndef PAGES_H
#define PAGES_H

#include "common/core/context.h"

__BEGIN_DECLS

enum { PAGE_TOKENS = 64 }; /* one TMA box on Hopper */

/* For kernels of both devices: where a token lies is computed in one place. */
#ifdef __CUDACC__
#define PAGES_INLINE __host__ __device__ __forceinline__ static
#else
#define PAGES_INLINE static inline
#endif

/* Where token t of the sequence with this line of the block table lies, in rows of a pool. */
PAGES_INLINE int64_t page_row(const int32_t *pages, int64_t t) {
    return (int64_t)pages[t / PAGE_TOKENS] * PAGE_TOKENS + t % PAGE_TOKENS;
}

typedef struct Pages {
    Tensor block_table;          /* I32 [batch, max_pages], on ctx's device */
    Tensor lengths;              /* I32 [batch], on ctx's device */
    int batch, count, max_pages; /* pages in all, and of a sequence at most */
    int capacity;                /* tokens that one sequence may hold */
    int horizon;     /* 0; or, for a step captured as a CUDA graph, the longest length it will see:
                  * sizes of grids and scratch are those of capture time */
    int step;        /* new tokens of the step that began last; 0: none since a cut */
    int steps;       /* begun so far: by it a pool knows whether it has written this one's rows */
    int ahead;       /* by how many tokens the host's lengths are ahead of the device's */
    int *length;     /* [batch]: the host's copies */
    int32_t *table;  /* [batch, max_pages] */
    int *used_pages; /* [batch]: pages that each sequence owns */
    int *free_pages; /* a stack of free_count page numbers */
    int free_count;
    Gpu *gpu; /* gave the memory; NULL on the CPU */
} Pages;

/*
 * For `batch` sequences, all empty, of up to `capacity` tokens each, `count` pages in all (0:
 * enough for every sequence at its capacity). -1 and a message when a number makes no sense or
 * memory runs out. Pools keep the address of `pages`, so it must not move.
 */
int pages_init(Pages *pages, Context *ctx, int batch, int capacity, int count, Error *err);
void pages_free(Pages *pages); /* zeros, or freed before: fine */

/*
 * Makes room for `tokens` more in every sequence. -1 and a message that names the sequence, what
 * it holds and what is missing; then no page has changed hands.
 */
int pages_reserve(Pages *pages, int tokens, Error *err);

/* A step of `tokens` new ones in every sequence begins: reserves, and counts them. */
int pages_begin(Pages *pages, int tokens, Error *err);

/* The last `tokens` of every sequence, which must hold so many, once more: a step that counts none,
 * for pools whose rows of them shall be written again. */
void pages_revisit(Pages *pages, int tokens);

/*
 * The device counts later than the host: when a kernel is about to read its lengths (pages_settle),
 * or inside a kernel that runs anyway. Such a kernel adds what pages_take_ahead() returns to every
 * length.
 */
void pages_settle(Context *ctx, Pages *pages);
int pages_take_ahead(Pages *pages);

/* I32 [B, T]: the positions of the step's tokens, lengths[b] - T + t. From the device's lengths, so
 * that a captured CUDA graph counts on. */
Tensor *pages_positions(Context *ctx, Pages *pages);

/*
 * Forgets all tokens but the first `length` of sequence b, or of every sequence (b = -1), and frees
 * the pages behind them; a shorter sequence stays as it is. This is how prompts of different
 * lengths enter: append them padded on the right, then cut each to size (the mask is causal, so the
 * padding was never seen).
 */
void pages_truncate(Pages *pages, int b, int length);

/*
 * The device forgets the last back[b] tokens of every sequence (I32 [batch] on ctx's device, not
 * more than there are). Nothing waits for the host, so it can be captured; pages_follow tells it.
 */
void pages_rewind(Context *ctx, Pages *pages, const Tensor *back);

/*
 * The device's lengths have moved without the host, each by tokens - back[b] (NULL: by `tokens`):
 * a captured graph was launched, or pages_rewind called. Reserve before that; pages stay where they
 * are.
 */
void pages_follow(Pages *pages, int tokens, const int32_t *back);

/* How many sequences from b on have the same length. */
int pages_alike(const Pages *pages, int b);

/* The longest sequence, by the host's count. */
int pages_longest(const Pages *pages);

/* ---- kernel ---- */

/* lengths[b] += tokens - back[b]; back may be NULL: zeros */
KERNEL(pages_move, int32_t *lengths, int32_t tokens, const int32_t *back, int64_t batch);

__END_DECLS
#endif
