/*
 * Fake quantisation on the tape, and a decoder whose weights went through it.
 */
#include "08_quant/qat.h"

#include "08_quant/methods/layer.h"

#include <string.h>

typedef struct FakeQuantiseSaved {
    Tensor *y, *w;
    float *scales;
    int64_t blocks, block;
    float largest;
} FakeQuantiseSaved;

static void fake_quantise_backward(Context *ctx, void *saved) {
    FakeQuantiseSaved *s = saved;
    int add;
    float *dw = grad_slot(ctx, s->w, &add);
    if (dw)
        ON(ctx, fake_quantise_backward, dw, add, s->y->grad->data, s->w->data, s->scales, s->blocks,
           s->block, s->largest);
}

Tensor *fake_quantise(Context *ctx, Tensor *w, const QuantFormat *format, float clip_at) {
    Error err = {0};
    int64_t in = tensor_dim(w, -1), block = format->block_in ? format->block_in : in;
    check_shape("fake_quantise", w, ctx->dtype, w->shape, w->ndim);
    CHECK(format->block_out == 1 && (format->dtype == U8 || format->dtype == I4) &&
              quant_check(format, tensor_rows(w), in, &err) == 0,
          "fake_quantise: %s in blocks of %d x %d. %s", w->name, format->block_out,
          format->block_in, err.text);
    CHECK(clip_at > 0 && clip_at <= 1, "fake_quantise: clip_at %g", (double)clip_at);
    int64_t blocks = tensor_count(w) / block;
    float largest = quant_largest(format->dtype);
    Tensor *y = tensor_new(ctx, w->name, ctx->dtype, w->shape, w->ndim);
    float *scales = arena_alloc(&ctx->data, sizeof *scales * (size_t)blocks);
    if (y->requires_grad) { /* it stands for a weight: products give it a gradient in F32 */
        y->grad = arena_alloc(&ctx->host, sizeof *y->grad);
        *y->grad = tensor_view(NULL, w->name, F32, ctx->device, w->shape, w->ndim);
        y->grad->data = arena_alloc(&ctx->data, tensor_bytes(y->grad));
    }
    ON(ctx, fake_quantise_forward, y->data, scales, w->data, blocks, block, largest, clip_at);
    RECORD(ctx, y, fake_quantise_backward, FakeQuantiseSaved, .y = y, .w = w, .scales = scales,
           .blocks = blocks, .block = block, .largest = largest);
    return y;
}

Decoder *qat_decoder(Context *ctx, const Decoder *decoder, const QuantFormat *format,
                     float clip_at) {
    size_t layers = (size_t)decoder->cfg.num_hidden_layers;
    Decoder *copy = arena_alloc(&ctx->host, sizeof *copy);
    *copy = *decoder;
    copy->layers = arena_alloc(&ctx->host, layers * sizeof *copy->layers);
    memcpy(copy->layers, decoder->layers, layers * sizeof *copy->layers);
    for (size_t i = 0; i < layers; i++) {
        Tensor **places[BLOCK_LINEARS];
        int count = block_linears(&copy->layers[i], places);
        for (int n = 0; n < count; n++) {
            Tensor *w = *places[n];
            if (quant_check(format, tensor_rows(w), tensor_dim(w, -1), NULL) == 0)
                *places[n] = fake_quantise(ctx, w, format, clip_at);
        }
    }
    return copy;
}
