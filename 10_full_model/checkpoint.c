#include "checkpoint.h"

#include "../common/files.h"
#include "../common/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

int checkpoint_save_weights(Model *model, const char *directory, int64_t step, Error *err) {
    char path[1024], step_text[32];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    snprintf(step_text, sizeof step_text, "%lld", (long long)step);
    Params *params = &model->params;
    Tensor *files = calloc((size_t)params->count, sizeof *files);
    float *values = malloc((size_t)params_count(params) * sizeof *values), *next = values;
    if (!files || !values) fatal("out of memory");
    for (int i = 0; i < params->count; i++) {
        const Tensor *t = params->list[i];
        params_get(params, t, next);
        files[i] = tensor_of(next, t->name, F32, CPU, t->shape, t->ndim);
        next += tensor_count(t);
    }
    int status = safetensors_write(path, files, params->count,
                                   &(KeyValue){.key = "step", .value = step_text}, 1, err);
    free(files);
    free(values);
    return status;
}

int checkpoint_save_setup(const ModelConfig *cfg, const Tokenizer *tokenizer, const char *directory,
                          Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (make_directories(directory, err)) return -1;
    if (config_save(cfg, directory, err)) return -1;
    return tokenizer_save(tokenizer, path, err);
}

static int load_weights(Model *model, const char *directory, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    SafeTensors *file = safetensors_open(path, err);
    if (!file) return -1;
    int status = 0;
    for (int i = 0; i < model->params.count && !status; i++) {
        Tensor *t = model->params.list[i];
        const Tensor *from = safetensors_get(file, t->name, t->shape, t->ndim, err);
        if (!from)
            status = -1;
        else if (from->dtype != F32)
            status = error_set(err, "%s: %s is %s; this program reads F32", path, t->name,
                               dtype_name(from->dtype));
        else
            params_set(&model->params, t, from->data);
    }
    safetensors_close(file);
    return status;
}

int checkpoint_load(Model *model, Tokenizer **tokenizer, Context *ctx, const char *directory,
                    Error *err) {
    char path[1024];
    ModelConfig cfg;
    *model = (Model){0};
    if (config_load(&cfg, directory, err)) return -1;
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (!(*tokenizer = tokenizer_load(path, err))) return -1;
    int status = 0;
    if (tokenizer_vocab_size(*tokenizer) != cfg.vocab_size)
        status = error_set(
            err, "%s: the model has %d tokens, its tokenizer.json %d: they do not belong together",
            directory, cfg.vocab_size, tokenizer_vocab_size(*tokenizer));
    if (!status) status = model_init(model, ctx, &cfg, false, err);
    if (!status) status = load_weights(model, directory, err);
    if (status) {
        model_free(model);
        tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
    return status;
}
