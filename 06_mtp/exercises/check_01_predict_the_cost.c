/* The predictions against the project's own count. */
#include "06_mtp/mtp.h"

#include <criterion/criterion.h>
#include <math.h>

extern const long long own, again, with_target;
extern const double loss;

Test(predict, cost) {
    enum { WIDTH = 768, VOCAB = 32000, B = 24, T = 40, DEPTH = 3 };
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = 12};
    cfg.block = (BlockConfig){.hidden_size = WIDTH,
                              .intermediate_size = 1408,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {WIDTH, 8, 0, 128, 64, 0, 64, false}};
    Params params = {0};
    Decoder decoder;
    Mtp mtp;
    decoder_register(&decoder, &params, &cfg);
    int64_t before = params_count(&params);
    mtp_register(&mtp, &params, &decoder, 1);
    int64_t more = params_count(&params) - before - block_parameters(&cfg.block, 12);
    cr_assert(own == more, "own is not %lld", own);
    cr_assert(again == tensor_count(decoder.lm_head), "again is not %lld", again);
    int64_t rows = 0;
    int32_t ids[T] = {0}, targets[T] = {0}, ids_k[T], targets_k[T];
    for (int b = 0; b < B; b++) {
        mtp_shift_cpu(ids_k, targets_k, ids, targets, 1, T, DEPTH, -1);
        for (int i = 0; i < T; i++) rows += targets_k[i] >= 0;
    }
    cr_assert(with_target == rows, "with_target is not %lld", with_target);
    cr_assert(fabs(loss - 0.2 / 3 * (2 + 3 + 4)) < 1e-9, "loss is not %g", loss);
}
