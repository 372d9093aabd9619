/*
 * Drafters: who guesses the next tokens.
 *
 * After every step of the decoder a drafter is told what the step has found (the states of its rows
 * and the token behind each), and then writes drafts d_1 .. d_k of the tokens to come. What it
 * guesses decides how fast decoding is, never what comes out.
 *
 * Two kinds: MTP modules (mtp.h), and planted guesses, which know the true continuation and err
 * where they are told to; with these, tests force every pattern of acceptance, and benchmarks any
 * rate.
 *
 * A text t_0 .. t_{n-1} has its first n - 1 tokens in the decoder's cache. Module m's row i is made
 * from t_{i+m} and h^{m-1}_i, and predicts t_{i+m+1}; its cache has a row for each i, a pool more
 * under the same pages (04_mla/pages.h). So while the text has n tokens:
 *
 *     rows 0 .. n-2 have a state h^0, and d_m is what module m says at row n - 2. With more drafts
 *     than modules the last one goes on: rows n-1, n, ... from its own states
 *
 * and after the decoder has looked at t_{n-1}, d_1 .. d_k (rows n-1 .. n+k-1), of which a were
 * right:
 *
 *     modules run over those rows, as layers of the same step, now with true states and tokens;
 *     with D modules over the D - 1 rows before them too, which they had filled from guesses
 *     the cache is cut to n + a rows, the decoder's and all modules' at once
 */
#ifndef DRAFTER_H
#define DRAFTER_H

#include "06_mtp/mtp.h"

__BEGIN_DECLS

enum { SPECULATE_MOST = 16 }; /* drafts at a time */

typedef struct DraftRound DraftRound;
struct DraftRound {
    Context *ctx;
    DecoderCache *cache;
    const Position *position;
    int count; /* k: how many drafts are wanted */
    /* What the step has found. last[b] is the last row of sequence b that is true (here a; -1: the
     * step has found nothing), next[b, 0 .. last[b]] are the tokens behind the rows up to it. */
    Tensor *states; /* [B, T, hidden_size], after the decoder's last norm */
    Tensor *next;   /* I32 [B, T]; behind last[b]: any ids */
    Tensor *last;   /* I32 [B] */
    int found;      /* true rows that every sequence has in the step, at least */
    /* Where drafts go: d_j to drafts[b, j], j = 1 .. k. I32 [B, 1 + SPECULATE_MOST]. */
    Tensor *drafts;
    /* A draft that comes from logits [B, 1, N] over the draft vocabulary is chosen by whoever asks:
     * it is written to drafts, and returned, I32 [B, 1]. */
    Tensor *(*choose)(DraftRound *round, int j, Tensor *logits);
    Tensor *head; /* [N, hidden_size]: the head's rows of that vocabulary */
    void *user;
};

typedef struct Drafter Drafter;
struct Drafter {
    /* Texts may have changed since the last round. */
    void (*begin)(Drafter *drafter);
    /* A step's rows are in the cache, the wrong ones too: it can add its own, and guess already. */
    void (*told)(Drafter *drafter, DraftRound *round);
    /* The cache has been cut: the drafts behind the first `depth`. Each adds a row to the caches,
     * which will be cut off again. */
    void (*draft)(Drafter *drafter, DraftRound *round);
    int depth;
    bool has_logits; /* drafts are chosen from logits; else they are certain */
    bool steady;     /* from now on a round is the same work as the one before */
    void (*free)(Drafter *drafter);
};

/*
 * Guesses by mtp's modules, which have a depth of at least 1, up to `drafts` at a time, for the
 * sequences of `cache`, which has latents. No more modules are at work than there are drafts. All
 * must outlive it. NULL and a message when memory runs out.
 */
Drafter *drafter_of_modules(Context *ctx, const Mtp *mtp, DecoderCache *cache, int drafts,
                            Error *err);

/* Its caches, one a module. */
const BlockCache *drafter_module_caches(const Drafter *drafter);

/*
 * Guesses that are right or wrong as they are told: d_j of the token at place p of sequence b is
 * truth[b][p] if right[j - 1][p % period], else another id. truth I32 [batch, length]; right
 * [SPECULATE_MOST, period]. `costs`, which may be NULL, is another drafter that does its work in
 * front of it, for nothing: so a benchmark pays for modules and has the acceptance that it wants.
 * It is freed with this one.
 */
Drafter *drafter_planted(Context *ctx, DecoderCache *cache, const int32_t *truth, int length,
                         const int32_t *right, int period, int vocab, Drafter *costs, Error *err);

void drafter_free(Drafter *drafter); /* NULL is fine */

/* ---- kernels: small lists of ids ---- */

/*
 * The tokens of each sequence as modules see them, and where its states are:
 *     line [B, W + T + k]   before[b, 0 .. W-1], next[b, 0 .. max(last[b], 0)], then zeros
 *     rows [B]              where row max(last[b], 0) is among `skip` + T rows of each sequence, of
 *                           which it has `skip` in front
 *     kept [B, W]           the W rows up to last[b], among W + T of each sequence
 * and before[b] becomes the tokens of these: what it will be in the next round.
 */
KERNEL(draft_line, int32_t *line, int32_t *rows, int32_t *kept, int32_t *before,
       const int32_t *next, const int32_t *last, int64_t batch, int64_t W, int64_t T, int64_t k,
       int64_t skip);

/* ids[b, i] = line[b, from + i] for i < count; line is `width` wide. */
KERNEL(draft_window, int32_t *ids, const int32_t *line, int64_t batch, int64_t count, int64_t from,
       int64_t width);

/* chosen[b] = map[chosen[b]], unless map is NULL; and drafts[b, j] is the same. */
KERNEL(draft_put, int32_t *chosen, int32_t *drafts, const int32_t *map, int64_t batch, int64_t j);

/* line[b, W + max(last[b], 0) + j] = chosen[b] */
KERNEL(draft_append, int32_t *line, const int32_t *chosen, const int32_t *last, int64_t batch,
       int64_t W, int64_t j, int64_t width);

/* drafts[b, 1 .. k] as drafter_planted() says; drafts[b, 0] stands at place lengths[b]. */
KERNEL(draft_plant, int32_t *drafts, const int32_t *truth, const int32_t *right,
       const int32_t *lengths, int64_t batch, int64_t k, int64_t length, int64_t period,
       int64_t vocab);

__END_DECLS
#endif
