/*
 * The modules, wired from 05's block.
 *
 * eh_proj is one product over a concatenation. Two products, one for each half of its columns,
 * would spare the copy, but need strided weights in every kernel of linear(); the copy moves as
 * many bytes as two norms do.
 *
 * All T rows run at every depth, though the last k have neither token nor target: rows of one
 * length keep every kernel on its fast path. They cost k / T of a module, change no other row, for
 * attention is causal, and get no gradient from the loss of the text.
 */
#include "06_mtp/mtp.h"

#include "05_moe/decoder/block_decode.h"

#include <stdio.h>
#include <stdlib.h>

int mtp_check(int depth, Error *err) {
    if (depth < 0 || depth > MTP_MAX_DEPTH)
        return error_set(err, "num_nextn_predict_layers is %d; it must be 0 (none) to %d", depth,
                         MTP_MAX_DEPTH);
    return 0;
}

void mtp_register(Mtp *mtp, Params *params, const Decoder *decoder, int depth) {
    Error err = {0};
    CHECK(mtp_check(depth, &err) == 0, "mtp_register: %s", err.text);
    const BlockConfig *cfg = &decoder->cfg.block;
    int64_t hidden = cfg->hidden_size;
    *mtp = (Mtp){.decoder = decoder, .depth = depth};
    if (depth == 0) return;
    mtp->modules = must_alloc((size_t)depth, sizeof *mtp->modules);
    mtp->records = must_alloc((size_t)depth, sizeof *mtp->records);
    for (int i = 0; i < depth; i++) {
        int layer = decoder->cfg.num_hidden_layers + i;
        MtpModule *m = &mtp->modules[i];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d", layer);
        m->enorm = params_new(params, prefix, "enorm.weight", SHAPE(hidden));
        m->hnorm = params_new(params, prefix, "hnorm.weight", SHAPE(hidden));
        m->eh_proj = params_new(params, prefix, "eh_proj.weight", SHAPE(hidden, 2 * hidden));
        m->block = block_init(params, prefix, cfg, layer);
        m->norm = params_new(params, prefix, "shared_head.norm.weight", SHAPE(hidden));
    }
}

void mtp_free(Mtp *mtp) {
    free(mtp->modules);
    free(mtp->records);
    *mtp = (Mtp){0};
}

void mtp_randomize(Params *params, const Mtp *mtp, DecoderStart s) {
    for (int i = 0; i < mtp->depth; i++) {
        const MtpModule *m = &mtp->modules[i];
        params_fill(params, m->enorm, 1);
        params_fill(params, m->hnorm, 1);
        params_normal(params, m->eh_proj, s.std);
        block_randomize(params, &m->block, s.std, s.o_proj, s.down_proj);
        params_fill(params, m->norm, 1);
    }
}

/* ---- forward ---- */

/* [mtp_forward] */
typedef Tensor *BlockFunction(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                              const BlockRun *run);

static Tensor *through_module(Context *ctx, const Mtp *mtp, int k, Tensor *ids, Tensor *h,
                              const BlockRun *run, BlockFunction *block) {
    CHECK(k >= 1 && k <= mtp->depth, "mtp: module %d of %d", k, mtp->depth);
    const MtpModule *m = &mtp->modules[k - 1];
    const BlockConfig *cfg = &mtp->decoder->cfg.block;
    float eps = cfg->rms_norm_eps;
    check_shape("mtp: the ids of a module", ids, I32, SHAPE(tensor_dim(h, 0), tensor_dim(h, 1)));
    Tensor *e = embedding(ctx, mtp->decoder->embed_tokens, ids); /* of t_{i+k} */
    Tensor *both = concat(ctx, rmsnorm(ctx, e, m->enorm, eps), rmsnorm(ctx, h, m->hnorm, eps));
    Tensor *x = linear(ctx, both, m->eh_proj, NULL); /* [B, T, hidden_size] */
    x = block(ctx, x, &m->block, cfg, run);
    return rmsnorm(ctx, x, m->norm, eps);
}

Tensor *mtp_forward(Context *ctx, const Mtp *mtp, int k, Tensor *ids, Tensor *h,
                    const BlockRun *run) {
    return through_module(ctx, mtp, k, ids, h, run, block_forward);
}

Tensor *mtp_decode(Context *ctx, const Mtp *mtp, int k, Tensor *ids, Tensor *h,
                   const BlockRun *run) {
    return through_module(ctx, mtp, k, ids, h, run, block_decode);
}
/* [/mtp_forward] */

/* ---- training ---- */

int mtp_training_check(const MtpTraining *training, int depth, int length, Error *err) {
    if (mtp_check(depth, err)) return -1;
    if (!(training->lambda >= 0 && training->lambda <= 100))
        return error_set(err, "lambda is %g; it must be 0 to 100", training->lambda);
    if (depth >= length)
        return error_set(
            err,
            "a window of %d tokens holds no target for module %d, which looks %d tokens "
            "ahead; take longer windows or at most %d modules",
            length, depth, depth + 1, length - 1);
    return 0;
}

void mtp_shift(Context *ctx, Tensor *ids, Tensor *targets, int k, int32_t end, Tensor **ids_k,
               Tensor **targets_k) {
    int64_t B = tensor_dim(ids, 0), T = tensor_dim(ids, 1);
    check_shape("mtp_shift", ids, I32, SHAPE(-1, -1));
    check_shape("mtp_shift", targets, I32, SHAPE(B, T));
    *ids_k = tensor_new(ctx, "ids of a module", I32, SHAPE(B, T));
    *targets_k = tensor_new(ctx, "targets of a module", I32, SHAPE(B, T));
    ON(ctx, mtp_shift, (*ids_k)->data, (*targets_k)->data, ids->data, targets->data, B, T, k, end);
}

/* [mtp_training_loss] */
Tensor *mtp_add_weighted(Context *ctx, Tensor *loss, Tensor *part, float weight) {
    const Tensor *c = tensor_copy_in(ctx, "weight", F32, &weight, SHAPE(1));
    return add(ctx, loss, weighted_sum(ctx, part, c));
}

Tensor *mtp_training_loss(Context *ctx, const Mtp *mtp, Tensor *ids, Tensor *targets,
                          const DecoderRun *run, const MtpTraining *training, Tensor **shown) {
    const Decoder *d = mtp->decoder;
    DecoderRun recorded = *run;
    recorded.record = true;
    Tensor *h = decoder_normed(ctx, d, decoder_states(ctx, d, ids, &recorded)); /* h^0 */
    shown[0] = linear_cross_entropy(ctx, h, d->lm_head, targets);
    Tensor *loss = decoder_add_losses(ctx, d, shown[0]);
    for (int k = 1; k <= mtp->depth; k++) {
        MoeRecord *record = &mtp->records[k - 1];
        const BlockRun one = {
            .position = run->position, .record = record, .training = run->training};
        Tensor *ids_k, *targets_k;
        mtp_shift(ctx, ids, targets, k, training->end, &ids_k, &targets_k);
        h = mtp_forward(ctx, mtp, k, ids_k, h, &one); /* h^k */
        shown[k] = linear_cross_entropy(ctx, h, d->lm_head, targets_k);
        loss = mtp_add_weighted(ctx, loss, shown[k], training->lambda / (float)mtp->depth);
        if (record->loss) loss = add(ctx, loss, record->loss);
    }
    return loss;
}
/* [/mtp_training_loss] */

void mtp_share_load(Context *ctx, const Mtp *mtp) {
    for (int k = 0; k < mtp->depth; k++) block_share_load(ctx, &mtp->modules[k].block);
}

void mtp_rebalance(Context *ctx, const Mtp *mtp, float gamma) {
    for (int i = 0; i < mtp->depth; i++) block_rebalance(ctx, &mtp->modules[i].block, gamma);
}
