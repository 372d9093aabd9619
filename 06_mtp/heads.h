/*
 * Independent heads: the other way to predict several tokens, for contrast (Gloeckle et al. 2024).
 *
 *     h^k_i  = norm_k(block_k(x_i))           x_i: what the decoder's last norm reads
 *     logits of t_{i+k+1}  =  head h^k_i      for k = 1 .. D, all from the same x
 *
 * Head k is not told which tokens stand between i and the one it predicts; it can only average over
 * all that could. So what it says of token i + 2 does not depend on which token i + 1 became, and
 * a draft made by several of them need not fit together: "new" and "York" are each likely, and so
 * are "Los" and "Angeles". A module of mtp.h sees t_{i+1} .. t_{i+k}, and its guesses are a chain.
 *
 * A head costs less by eh_proj, 2 hidden_size^2, and all can run at the same time.
 */
#ifndef HEADS_H
#define HEADS_H

#include "06_mtp/mtp.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MtpHead {
    Block block;
    Tensor *norm; /* [hidden_size] */
} MtpHead;

typedef struct MtpHeads {
    const Decoder *decoder; /* whose last head is everybody's; must outlive them */
    int depth;
    MtpHead *heads;     /* [depth]: head k is heads[k - 1] */
    MoeRecord *records; /* [depth] */
} MtpHeads;

/* "model.heads.{k}." norm.weight and a block's; depth as mtp_check wants it. */
void mtp_heads_register(MtpHeads *heads, Params *params, const Decoder *decoder, int depth);
void mtp_heads_free(MtpHeads *heads); /* not the weights; zeros: fine */
void mtp_heads_randomize(Params *params, const MtpHeads *heads, DecoderStart start);

/* Head k, 1 .. depth: x [B, T, hidden_size] (decoder_states) -> the same shape, normed. */
Tensor *mtp_heads_forward(Context *ctx, const MtpHeads *heads, int k, Tensor *x,
                          const BlockRun *run);

/* mtp_training_loss() for heads. */
Tensor *mtp_heads_training_loss(Context *ctx, const MtpHeads *heads, Tensor *ids, Tensor *targets,
                                const DecoderRun *run, const MtpTraining *training, Tensor **shown);

#ifdef __cplusplus
}
#endif
#endif
