/*
 * Multi-token prediction, MTP: modules that look further ahead than the next token.
 *
 * Behind the decoder stand D modules. The decoder's state h^0_i, after its last norm, predicts
 * token i + 1. Module k takes the state of the module before it and the token that was predicted
 * there, and predicts one token more (DeepSeek-V3, 2.2):
 *
 *     x    = eh_proj [ enorm(Emb(t_{i+k})) | hnorm(h^{k-1}_i) ]      [2 hidden_size] -> hidden_size
 *     h^k  = norm(block(x))                                          a block like the decoder's
 *     logits of t_{i+k+1}  =  head h^k_i
 *
 * Embedding and head are the decoder's own. The order in eh_proj is that of the released weights
 * (the paper writes the other one). States are handed on after a norm, the decoder's last or the
 * module's own, so each row of logits has seen exactly one. Row i of a module stands at position i,
 * as row i of the decoder does: the ids are shifted by k, the positions are not.
 *
 * Module k sees nothing that follows token i + k, so its guess of t_{i+k+1} is a true conditional
 * distribution given the tokens up to i + k: one sampled from the last, a chain. (The heads of
 * heads.h, which see h_i alone, have no such chain.)
 *
 * The weights of module k of a decoder with L layers are "model.layers.{L+k-1}." enorm.weight,
 * hnorm.weight, eh_proj.weight, shared_head.norm.weight, and a block's.
 */
#ifndef MTP_H
#define MTP_H

#include "05_moe/decoder/decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MTP_MAX_DEPTH = 8 };

typedef struct MtpModule {
    Tensor *enorm, *hnorm; /* [hidden_size] */
    Tensor *eh_proj;       /* [hidden_size, 2 hidden_size], over [embedding | state] */
    Block block;
    Tensor *norm; /* [hidden_size]: shared_head.norm */
} MtpModule;

typedef struct Mtp {
    const Decoder *decoder; /* whose embedding and head the modules use; must outlive them */
    int depth;              /* D, num_nextn_predict_layers; 0: none */
    MtpModule *modules;     /* [depth]: module k is modules[k - 1] */
    MoeRecord *records;     /* [depth]: what their routers did in the last recorded run */
} Mtp;

/* 0, or -1 and a message: 0 .. MTP_MAX_DEPTH. */
int mtp_check(int depth, Error *err);

/* Registers the weights of `depth` modules behind a decoder that is registered already; depth must
 * have passed mtp_check. */
void mtp_register(Mtp *mtp, Params *params, const Decoder *decoder, int depth);
void mtp_free(Mtp *mtp); /* not the weights; zeros: fine */

/* As decoder_randomize(); eh_proj has start.std. To be called after it: the decoder then begins
 * with the numbers that it has without modules. */
void mtp_randomize(Params *params, const Mtp *mtp, DecoderStart start);

/* ---- forward ---- */

/*
 * Module k, 1 .. depth: ids I32 [B, T], of which row i is t_{i+k}, and h^{k-1} [B, T, hidden_size]
 * (of module 1: decoder_normed(decoder_states())) -> h^k, the same shape: what module k + 1 takes,
 * and decoder_head() turns into logits. `run` as for a block (block.h): with a cache the T rows
 * follow what it holds, and are those that its step began with (decoder_cache_begin; each of its
 * layers serves one module).
 */
Tensor *mtp_forward(Context *ctx, const Mtp *mtp, int k, Tensor *ids, Tensor *h,
                    const BlockRun *run);

/* The same for a few rows behind a cache, by the kernels made for those (block_decode.h). */
Tensor *mtp_decode(Context *ctx, const Mtp *mtp, int k, Tensor *ids, Tensor *h,
                   const BlockRun *run);

/* ---- training ---- */

typedef struct MtpTraining {
    float lambda; /* weight of the modules' losses together (V3: 0.3, later 0.1) */
    int32_t end;  /* the token that ends a document; -1: the text has none */
} MtpTraining;

/* Have the modules something to predict in windows of `length` tokens? -1 and a message if not. */
int mtp_training_check(const MtpTraining *training, int depth, int length, Error *err);

/*
 * What training makes smaller:
 *
 *     decoder_training_loss()  +  lambda / D  sum over k of CE_k  +  the modules' routers' losses
 *
 * ids and targets I32 [B, T], targets[i] = ids[i + 1]. CE_k is the mean over the rows that have a
 * target of module k: not the last k of a window, and none whose t_{i+1} .. t_{i+k} hold `end`, for
 * its target belongs to another document. So each depth has its own count, as in Megatron; in the
 * paper (eq. 24) all are divided by T. The decoder's own loss has all rows. Over accumulated
 * micro-batches the means are averaged.
 *
 * shown [1 + depth]: the decoder's cross entropy, CE_1, ... (F32 [1] each, natural log). Off the
 * tape these are all that is computed for; then the return value has no meaning beyond their sum.
 */
Tensor *mtp_training_loss(Context *ctx, const Mtp *mtp, Tensor *ids, Tensor *targets,
                          const DecoderRun *run, const MtpTraining *training, Tensor **shown);

/* loss + weight * part, F32 [1] each. */
Tensor *mtp_add_weighted(Context *ctx, Tensor *loss, Tensor *part, float weight);

/* decoder_share_load() for the modules' routers. */
void mtp_share_load(Context *ctx, const Mtp *mtp);

/* decoder_rebalance() for the modules' routers. */
void mtp_rebalance(Context *ctx, const Mtp *mtp, float gamma);

/* What module k sees and is asked for: ids and targets shifted by k, targets that it has not become
 * IGNORE_TARGET, and rows without a token repeat the window's last. */
void mtp_shift(Context *ctx, Tensor *ids, Tensor *targets, int k, int32_t end, Tensor **ids_k,
               Tensor **targets_k);

/* ---- kernel ---- */

KERNEL(mtp_shift, int32_t *ids_k, int32_t *targets_k, const int32_t *ids, const int32_t *targets,
       int64_t batch, int64_t tokens, int k, int32_t end);

#ifdef __cplusplus
}
#endif
#endif
