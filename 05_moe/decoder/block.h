/*
 * The decoder block: what a model is a stack of.
 *
 *     x = x + attention(rmsnorm(x))
 *     x = x + ffn(rmsnorm(x))             ffn: a dense SwiGLU, or experts
 *
 * Attention is chapter 03's or chapter 04's, as the config says. The first first_k_dense_replace
 * layers have the dense SwiGLU: near the input, tokens are not yet anything an expert could be good
 * at, and the load becomes even later than elsewhere (DeepSeekMoE, Dai et al. 2024).
 *
 * block_forward() trains (no cache), and takes prompts and what follows them into a cache of its
 * attention's kind. Decoding, a few tokens at a time, is block_decode.h's.
 */
#ifndef BLOCK_H
#define BLOCK_H

#include "03_multihead/multihead.h"
#include "04_mla/mla.h"
#include "05_moe/moe.h"

__BEGIN_DECLS

typedef enum AttentionKind { ATTENTION_MULTIHEAD, ATTENTION_MLA } AttentionKind;

/* The names of Hugging Face's config.json. */
typedef struct BlockConfig {
    int hidden_size;
    int intermediate_size; /* of the dense SwiGLU */
    float rms_norm_eps;
    AttentionKind attention;   /* which of the two that follow counts */
    MultiheadConfig multihead; /* hidden_size as above */
    int qk_rope_head_dim;      /* of its heads' numbers the last so many are rotated; 0: none */
    MlaConfig mla;
    bool e4m3_cache;    /* caches of latents have rows of 04_mla/latent_row.h */
    int index_head_dim; /* numbers that a selection keeps of a token (04_mla/selection.h); or 0 */
    int first_k_dense_replace; /* layers 0 .. k - 1 are dense */
    MoeConfig moe;             /* of the others; n_routed_experts 0: all layers are dense */
} BlockConfig;

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int block_check(const BlockConfig *cfg, Error *err);

/* Does this layer have the dense SwiGLU? */
bool block_is_dense(const BlockConfig *cfg, int layer);

typedef struct Block {
    Tensor *input_layernorm; /* [hidden_size] */
    Multihead multihead;     /* one of the two */
    Mla mla;
    const Selection *selection;       /* that is part of the layer; NULL: it has none */
    Tensor *post_attention_layernorm; /* [hidden_size] */
    bool dense;
    Mlp mlp; /* one of the two */
    Moe moe;
} Block;

/*
 * Registers PREFIX.input_layernorm.weight, PREFIX.self_attn.q_proj.weight,
 * PREFIX.mlp.gate_proj.weight and so on; Hugging Face's prefix of layer 3 is "model.layers.3". cfg
 * must have passed block_check.
 */
Block block_init(Params *params, const char *prefix, const BlockConfig *cfg, int layer);

/* Normal(0, std); o_proj and down_proj, which write into the residual stream, with deviations of
 * their own; norms one. */
void block_randomize(Params *params, const Block *w, float std, float o_std, float down_std);

/* How many numbers a layer learns, and with how many of them one token is multiplied. */
int64_t block_parameters(const BlockConfig *cfg, int layer);
int64_t block_active_parameters(const BlockConfig *cfg, int layer);

/* The cache of one layer: keys and values, or latents; all layers' is in decoder_cache.h. */
typedef struct BlockCache {
    AttentionKind kind;
    KVCache kv; /* one of the two */
    LatentCache latent;
} BlockCache;

/* One layer's pools under `pages`, of latents and of a selection's keys. -1 and a message when
 * memory runs out. */
int block_cache_init_latents(BlockCache *cache, Context *ctx, Pages *pages, const BlockConfig *cfg,
                             Error *err);

/* ---- forward ---- */

/* What a step of training asks of a block, while recording. */
typedef struct BlockTraining {
    /* probability, on what is added to x (GPT-2); 0, as in DeepSeek's models: none */
    float dropout;
    MoeLosses losses;
} BlockTraining;

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int block_training_check(const BlockTraining *training, const BlockConfig *cfg, Error *err);

/* What passes through a block beside x. Each may be NULL. */
typedef struct BlockRun {
    /* the rotation; NULL where nothing is rotated */
    const Position *position;
    /* latent attention's: which tokens are seen (04_mla/selection.h); NULL: what the layer's own
     * selection says, if it has one */
    const Selection *selection;
    /* NULL: the T tokens are the whole sequence, and this can be differentiated; else they are
     * those that the step began with (decoder_cache_begin; recording must be off) */
    BlockCache *cache;
    MlaMode mode; /* of latent attention behind a cache; zero is MLA_AUTO */
    /* gets what the experts' router decided, and its losses; a dense layer leaves it all zero */
    MoeRecord *record;
    const Tensor *replay;          /* I32 [B T, K]: experts in the router's place (router_replay) */
    const BlockTraining *training; /* NULL: no dropout, no losses */
} BlockRun;

/* Who chooses what this layer's attention sees; NULL: nobody, it sees all. */
const Selection *block_selection(const Block *w, const BlockRun *run);

/* x [B, T, hidden_size] -> the same shape. */
Tensor *block_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                      const BlockRun *run);

/* Its two parts: of either kind, added to `to` (ops.h); h [B, T, hidden_size] has been normed. */
Tensor *block_attention(Context *ctx, Tensor *h, const Block *w, const BlockConfig *cfg,
                        const BlockRun *run, Residual to);
Tensor *block_feed_forward(Context *ctx, Tensor *h, const Block *w, const BlockConfig *cfg,
                           const BlockRun *run, Residual to);

/* Where several ranks train: the router's load becomes that of all (moe_share_load). */
void block_share_load(Context *ctx, const Block *w);

/* After the optimizer's step: the router's bias moves by gamma towards an even load (V3, 2.1.2). */
void block_rebalance(Context *ctx, const Block *w, float gamma);

/* How even the load of the experts is, over several layers: that of the worst, and how many experts
 * got nothing in all. */
typedef struct ExpertLoad {
    double max_vio; /* (largest - mean) / mean: balance.h. NAN without experts */
    int idle;
} ExpertLoad;

/* Adds what this layer's router has counted since the last block_rebalance. */
void block_add_load(Context *ctx, const Block *w, ExpertLoad *sum);

/* -1 and a message if the router saw a NaN since it was last asked (router_healthy). */
int block_healthy(Context *ctx, const Block *w, Error *err);

__END_DECLS
#endif
