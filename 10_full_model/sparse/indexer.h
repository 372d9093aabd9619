/*
 * The lightning indexer: what DeepSeek-V3.2 chooses by which tokens attention looks at (its report,
 * section 2.1).
 *
 *     q_h = c_q W_q,h^T                     heads of index_head_dim numbers
 *     k   = LayerNorm(x W_k^T)              one key for all heads
 *     w   = x W_w^T                         a weight for each head
 *     I[t, s] = (heads dim)^-1/2  sum over h of  w[t, h] ReLU(q[t, h] . k[s])
 *     selected[t] = the index_topk tokens s <= t with the largest I[t, s]; of equals the lower
 *
 * q and k are rotated by their positions, but not as attention's are: here the rotated part stands
 * first in a head, [rope | nope], and its pairs are halves, (i, i + rope / 2). The rotation itself
 * is the same: the model's frequencies, stretched by YaRN if they are.
 *
 * It is a Selection (04_mla/selection.h) that belongs to a block. Its keys go into the second pool
 * of the block's cache; where the latents have eight bits, so have they: q and k are then turned
 * by Hadamard's matrix first, and both rounded, as in DeepSeek's own program. A key of 128 numbers
 * takes 132 bytes.
 *
 * It learns from nothing but attention (index_loss.h): x and c_q reach it without their gradients,
 * and the choice of a token has none. So the model learns from the text, and the indexer from the
 * model.
 */
#ifndef INDEXER_H
#define INDEXER_H

#include "04_mla/mla.h"
#include "07_rope/rope.h"
#include "10_full_model/sparse/index_loss.h"

#include "common/core/params.h"

/* The names of Hugging Face's config.json, beside attention's. */
typedef struct IndexerConfig {
    int index_n_heads, index_head_dim, index_topk;
    int hidden_size, q_lora_rank, qk_rope_head_dim;
} IndexerConfig;

#define INDEXER_NORM_EPS 1e-6f

/* 0, or -1 and a message that names the setting that is wrong. */
int indexer_check(const IndexerConfig *cfg, Error *err);

/* The same of a cache in eight bits, which only some sizes can have. */
int indexer_check_e4m3(const IndexerConfig *cfg, Error *err);

/* What an indexer does while the tape records; off it, it always selects. */
typedef enum IndexerStage {
    INDEXER_SELECTS,  /* it chooses and does not learn */
    INDEXER_WARMS_UP, /* attention sees all, and it learns to tell what attention looks at */
    INDEXER_LEARNS,   /* it chooses, and learns to weigh what it has chosen */
} IndexerStage;

/* What the last recorded run left behind. */
typedef struct IndexerRecord {
    Tensor *q, *k, *w; /* of the step, until it has learned */
    Tensor *loss;      /* F32 [1]; NULL: none */
    IndexMeasures measures;
} IndexerRecord;

enum { INDEXER_WEIGHTS = 5 };

typedef struct Indexer {
    Selection selection; /* first: an Indexer * is a Selection * */
    IndexerConfig cfg;
    Tensor *wq_b;                 /* [heads * dim, q_lora_rank] */
    Tensor *wk;                   /* [dim, hidden_size] */
    Tensor *k_norm, *k_norm_bias; /* [dim] */
    Tensor *weights_proj;         /* [heads, hidden_size], F32 whatever the others are */
    Tensor *all[INDEXER_WEIGHTS]; /* these, as a list */
    const Rope *rope;             /* halves; NULL: nothing is rotated */
    IndexerStage stage;
    IndexerRecord *record;
} Indexer;

/* One for each of `count` layers, from layer 0 on; those of a model without are {0}. */
typedef struct Indexers {
    Indexer *list;
    IndexerRecord *records;
    int count;
} Indexers;

/*
 * Registers model.layers.N.self_attn.indexer.wq_b.weight and so on. cfg must have passed
 * indexer_check. The rope comes later (indexers_set_rope), with its tables.
 */
void indexers_register(Indexers *indexers, Params *params, const IndexerConfig *cfg, int layers);
void indexers_free(Indexers *indexers); /* not the weights; zeros: fine */
void indexers_set_rope(Indexers *indexers, const Rope *rope);

/*
 * Before params_allocate(): what they do while the tape records, and their group of weights. While
 * they warm up all others are frozen; rate: what their learning rate is multiplied by. Until this
 * is called they select, have gradients of zero and no decay: nothing moves them.
 */
void indexers_train(Indexers *indexers, Params *params, IndexerStage stage, float rate);

/* Normal(0, std), the norm one and its bias zero. */
void indexer_randomize(Params *params, const Indexer *w, float std);

/* The numbers that an indexer learns. */
int64_t indexer_parameters(const IndexerConfig *cfg);

/* loss + coefficient * what all indexers have left in their records, for the tape. */
Tensor *indexers_add_losses(Context *ctx, const Indexers *indexers, Tensor *loss,
                            float coefficient);

/* Where several ranks train: the measures become those of the last, which has had a step's last
 * micro-batch. */
void indexers_share_measures(Indexers *indexers, struct Comm *comm);

/* Means over the layers of what they measured in the last recorded run; layer: of one, -1: all. */
IndexMeasures indexers_measures(const Indexers *indexers, int layer);

#endif
