/*
 * The heads: mtp.c without what a module is told of the tokens in between.
 */
#include "06_mtp/heads.h"

#include <stdio.h>
#include <stdlib.h>

void mtp_heads_register(MtpHeads *heads, Params *params, const Decoder *decoder, int depth) {
    *heads = (MtpHeads){.decoder = decoder, .depth = depth};
    if (depth == 0) return;
    heads->heads = must_alloc((size_t)depth, sizeof *heads->heads);
    heads->records = must_alloc((size_t)depth, sizeof *heads->records);
    for (int k = 1; k <= depth; k++) {
        MtpHead *w = &heads->heads[k - 1];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.heads.%d", k);
        w->block =
            block_init(params, prefix, &decoder->cfg.block, decoder->cfg.num_hidden_layers + k - 1);
        w->norm = params_new(params, prefix, "norm.weight", SHAPE(decoder->cfg.block.hidden_size));
    }
}

void mtp_heads_free(MtpHeads *heads) {
    free(heads->heads);
    free(heads->records);
    *heads = (MtpHeads){0};
}

void mtp_heads_randomize(Params *params, const MtpHeads *heads, DecoderStart s) {
    for (int i = 0; i < heads->depth; i++) {
        block_randomize(params, &heads->heads[i].block, s.std, s.o_proj, s.down_proj);
        params_fill(params, heads->heads[i].norm, 1);
    }
}

Tensor *mtp_heads_forward(Context *ctx, const MtpHeads *heads, int k, Tensor *x,
                          const BlockRun *run) {
    CHECK(k >= 1 && k <= heads->depth, "heads: head %d of %d", k, heads->depth);
    const MtpHead *w = &heads->heads[k - 1];
    const BlockConfig *cfg = &heads->decoder->cfg.block;
    return rmsnorm(ctx, block_forward(ctx, x, &w->block, cfg, run), w->norm, cfg->rms_norm_eps);
}

Tensor *mtp_heads_training_loss(Context *ctx, const MtpHeads *heads, Tensor *ids, Tensor *targets,
                                const DecoderRun *run, const MtpTraining *training,
                                Tensor **shown) {
    const Decoder *d = heads->decoder;
    DecoderRun recorded = *run;
    recorded.record = true;
    Tensor *x = decoder_states(ctx, d, ids, &recorded);
    shown[0] = linear_cross_entropy(ctx, decoder_normed(ctx, d, x), d->lm_head, targets);
    Tensor *loss = decoder_add_losses(ctx, d, shown[0]);
    for (int k = 1; k <= heads->depth; k++) {
        MoeRecord *record = &heads->records[k - 1];
        const BlockRun one = {
            .position = run->position, .record = record, .training = run->training};
        Tensor *unused, *targets_k;
        mtp_shift(ctx, ids, targets, k, training->end, &unused, &targets_k);
        Tensor *h = mtp_heads_forward(ctx, heads, k, x, &one);
        shown[k] = linear_cross_entropy(ctx, h, d->lm_head, targets_k);
        loss = mtp_add_weighted(ctx, loss, shown[k], training->lambda / (float)heads->depth);
        if (record->loss) loss = add(ctx, loss, record->loss);
    }
    return loss;
}
