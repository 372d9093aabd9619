/*
 * The model against PyTorch: logits, loss, and the gradient of every weight.
 */
#include "../common/testing.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

static void parity(Device device, DType dtype, const char *path, bool tied) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open(path);
    ModelConfig cfg = {.vocab_size = 37,
                       .hidden_size = 24,
                       .intermediate_size = 40,
                       .num_hidden_layers = 2,
                       .num_attention_heads = 4,
                       .num_key_value_heads = 2,
                       .head_dim = 6,
                       .max_position_embeddings = 64,
                       .rms_norm_eps = 1e-6f,
                       .initializer_range = 0.02f,
                       .tie_word_embeddings = tied};
    Model model;
    Error err;
    if (model_init(&model, &ctx, &cfg, true, &err)) cr_assert_fail("%s", err.text);
    for (int i = 0; i < model.params.count; i++) {
        Tensor *t = model.params.list[i];
        const Tensor *from = safetensors_get(golden, t->name, t->shape, t->ndim, &err);
        if (!from) cr_assert_fail("%s", err.text);
        params_set(&model.params, t, from->data);
    }
    Tensor *ids = golden_tensor(&ctx, golden, "ids"),
           *targets = golden_tensor(&ctx, golden, "targets");

    /*
     * F32: a dozen sums of up to 40 products one after the other, each within sqrt(40) roundings of 2^-24; gradients pass
     * through twice as many. BF16: some twenty roundings of up to 2^-8 forward and as many back, weights and activations
     * alike; independent ones add up like sqrt(40) times their mean of 2^-9, which is 1.2 %. Logits pass through half of
     * them; gradients of the first layer's small matrices, differences of larger numbers, come out at up to three times that.
     */
    bool rough = dtype == BF16;
    check_tensor(&ctx, "logits", model_forward(&model, ids, NULL), golden_values(golden, "logits"),
                 rough ? 2e-2 : 2e-6);
    ctx.recording = true;
    Tensor *loss = model_loss(&model, ids, targets);
    check_tensor(&ctx, "loss", loss, golden_values(golden, "loss"), rough ? 1e-2 : 5e-7);
    tape_backward(&ctx, loss);
    for (int i = 0; i < model.params.count; i++) {
        Tensor *t = model.params.list[i];
        char name[128];
        snprintf(name, sizeof name, "grad.%s", t->name);
        float *grad = malloc((size_t)tensor_count(t) * sizeof *grad);
        params_get_grad(&model.params, t, grad);
        check_close(name, grad, golden_values(golden, name), tensor_count(t), rough ? 6e-2 : 5e-6);
        free(grad);
    }
    safetensors_close(golden);
    model_free(&model);
    test_context_free(&ctx);
}

DEVICE_TEST(golden, untied_head) {
    parity(device, dtype, "10_full_model/goldens/model_untied.safetensors", false);
}
DEVICE_TEST(golden, tied_head) {
    parity(device, dtype, "10_full_model/goldens/model_tied.safetensors", true);
}
