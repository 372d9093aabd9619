/*
 * The decoder: a language model, from here on in every chapter.
 *
 *     x = embed_tokens[ids]  (+ places[t])        + places: a table of learned places, if asked for
 *     x = block(x)                                in every layer (block.h): the states
 *     logits = lm_head(rmsnorm(x))                of all tokens, or of those that are needed
 *
 * A Decoder is weights and what they compute; a text's positions, its cache and what training asks
 * for come with each run. All that exists once for each layer belongs to the Decoder (blocks,
 * records) or to its cache, so no caller counts layers.
 *
 * Weights have Hugging Face's names, but for the experts of a layer, which are one tensor here
 * ("model.layers.3.mlp.experts.gate_proj.weight", [E, inner, hidden]).
 */
#ifndef DECODER_H
#define DECODER_H

#include "05_moe/decoder/decoder_cache.h"

__BEGIN_DECLS

typedef struct DecoderConfig {
    int vocab_size, num_hidden_layers;
    int places; /* longest text of a model with learned places, cached or not; 0: has none */
    bool tie_word_embeddings; /* the head is the embedding table again */
    BlockConfig block;
} DecoderConfig;

typedef struct Decoder {
    DecoderConfig cfg;
    Tensor *embed_tokens; /* [vocab_size, hidden_size] */
    Tensor *places;       /* [places, hidden_size], or NULL */
    Block *layers;        /* [num_hidden_layers] */
    Tensor *norm;         /* [hidden_size] */
    Tensor *lm_head;      /* [vocab_size, hidden_size] */
    MoeRecord *records;   /* [num_hidden_layers]: what the last recorded run's routers did */
} Decoder;

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int decoder_check(const DecoderConfig *cfg, Error *err);

/* Registers the weights; cfg must have passed decoder_check. Their data is there after
 * params_allocate(). */
void decoder_register(Decoder *decoder, Params *params, const DecoderConfig *cfg);
void decoder_free(Decoder *decoder); /* not the weights, which are params'; zeros: fine */

/* Standard deviations at the start: of the tables; of what writes into the residual stream, o_proj
 * and down_proj; of all else (the head too). Norm weights are 1. */
typedef struct DecoderStart {
    float embed, std, o_proj, down_proj;
} DecoderStart;
void decoder_randomize(Params *params, const Decoder *decoder, DecoderStart start);

/* What a run of the decoder is given beside ids. Each may be NULL. */
typedef struct DecoderRun {
    const Position *position;           /* the rotation, if there is one */
    MlaMode mode;                       /* with a cache, except in decoder_decode() */
    const Selection *const *selections; /* one for each layer, as the blocks want it */
    DecoderCache *cache;           /* ids follow what it holds; there must be room, recording off */
    const Tensor *const *replay;   /* one for each layer: experts in the router's place */
    bool record;                   /* fill decoder->records (without losses off the tape) */
    const BlockTraining *training; /* used while recording only */
} DecoderRun;

/* ids I32 [B, T] -> what the last norm reads, [B, T, hidden_size]. */
Tensor *decoder_states(Context *ctx, const Decoder *decoder, Tensor *ids, const DecoderRun *run);

/* The same for a few new tokens behind a cache, by the kernels made for those (block_decode.h). */
Tensor *decoder_decode(Context *ctx, const Decoder *decoder, Tensor *ids, const DecoderRun *run);

/* Off the tape: the states of the last token of each sequence, [B, 1, hidden_size]. */
Tensor *decoder_last(Context *ctx, Tensor *states);

/* For any rows of states [..., hidden_size]: what the last norm makes of them; and the logits
 * [..., vocab_size], which include that norm. */
Tensor *decoder_normed(Context *ctx, const Decoder *decoder, Tensor *states);
Tensor *decoder_logits(Context *ctx, const Decoder *decoder, Tensor *states);

/* The head alone, for rows [..., hidden_size] that are normed already. */
Tensor *decoder_head(Context *ctx, const Decoder *decoder, Tensor *normed);

/* Mean cross entropy of targets I32 [B, T] (F32 [1], natural log). A target of IGNORE_TARGET does
 * not count. */
Tensor *decoder_loss(Context *ctx, const Decoder *decoder, Tensor *ids, Tensor *targets,
                     const Position *position);

/*
 * What training makes smaller: the same, with dropout, plus the routers' losses that run->training
 * asks for; the records are filled. *cross_entropy is the part without those losses.
 */
Tensor *decoder_training_loss(Context *ctx, const Decoder *decoder, Tensor *ids, Tensor *targets,
                              const DecoderRun *run, Tensor **cross_entropy);

/* loss + the routers' losses that the last recorded run left in the records. */
Tensor *decoder_add_losses(Context *ctx, const Decoder *decoder, Tensor *loss);

/* Where several ranks train: every router's load becomes that of all. */
void decoder_share_load(Context *ctx, const Decoder *decoder);

/* After the optimizer's step: every router's bias moves by gamma towards an even load (V3,
 * 2.1.2). */
void decoder_rebalance(Context *ctx, const Decoder *decoder, float gamma);

/* What all routers have counted since then. */
ExpertLoad decoder_expert_load(Context *ctx, const Decoder *decoder);

/* -1 and a message that names the first layer whose router saw a NaN since it was last asked. */
int decoder_healthy(Context *ctx, const Decoder *decoder, Error *err);

__END_DECLS
#endif
