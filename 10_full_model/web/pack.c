/*
 * Writes a model's folder as one file for a page: pack FOLDER FILE. tools/book/model.sh makes both.
 */
#include "10_full_model/web/nano.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "common/text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(FILE *file, const void *data, size_t bytes) {
    if (fwrite(data, 1, bytes, file) != bytes) fatal("the file cannot be written");
}

static void put_tokens(FILE *file, const Tokenizer *t) {
    int16_t byte_id[256];
    for (int b = 0; b < 256; b++) byte_id[b] = (int16_t)t->byte_ids[b];
    put(file, byte_id, sizeof byte_id);
    for (size_t i = 0; i < t->merge_count; i++) {
        const Merge *m = &t->merges[i];
        NanoMerge merge = {(int16_t)m->left, (int16_t)m->right, (int16_t)m->result};
        put(file, &merge, sizeof merge);
    }
}

static void put_weight(FILE *file, Params *params, const Tensor *w) {
    QuantFormat format = nano_format(w);
    int64_t in = tensor_dim(w, -1), out = tensor_count(w) / in;
    float *values = must_alloc((size_t)tensor_count(w), sizeof *values);
    params_get(params, w, values);
    if (format.dtype == F32) {
        put(file, values, sizeof *values * (size_t)tensor_count(w));
    } else {
        Error err;
        size_t bytes = quant_code_bytes(&format, out, in);
        size_t count = (size_t)quant_scale_count(&format, out, in);
        uint8_t *codes = must_alloc(bytes, 1);
        float *scales = must_alloc(count, sizeof *scales);
        if (quantise(codes, scales, values, out, in, &format, &err))
            fatal("%s: %s", w->name, err.text);
        put(file, codes, bytes);
        for (size_t i = 0; i < count; i++) {
            uint16_t half = bf16_from_float(scales[i]);
            put(file, &half, sizeof half);
        }
        free(codes), free(scales);
    }
    free(values);
}

int main(int argc, char **argv) {
    Error err;
    Context ctx;
    Model model;
    if (argc != 3) fatal("usage: pack FOLDER FILE");
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer.json", argv[1]);
    Tokenizer *tokenizer = tokenizer_load(path, &err);
    if (!tokenizer || context_init(&ctx, CPU, F32, 1, &err) ||
        checkpoint_load_model(&model, &ctx, argv[1], NULL, LOAD_PLAIN, &err))
        fatal("%s", err.text);
    FILE *file = fopen(argv[2], "wb");
    if (!file) fatal("%s cannot be written", argv[2]);
    const ModelConfig *c = &model.cfg;
    int32_t header[NANO_HEADER] = {NANO_MAGIC,       c->vocab_size,
                                   c->index_n_heads, c->index_head_dim,
                                   c->index_topk,    (int32_t)tokenizer->merge_count};
    put(file, header, sizeof header);
    put_tokens(file, tokenizer);
    for (int i = 0; i < model.params.count; i++)
        put_weight(file, &model.params, model.params.list[i]);
    for (int i = 0; i < model.params.buffer_count; i++) {
        const Tensor *b = model.params.buffers[i];
        if (b->dtype == F32) put(file, b->data, tensor_bytes(b));
    }
    printf("%s: %lld numbers, %ld bytes\n", argv[2], (long long)params_count(&model.params),
           ftell(file));
    return fclose(file) ? 1 : 0;
}
