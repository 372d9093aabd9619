/*
 * The whole sequence goes through the model once more, as in training, so the numbers are the same
 * however it was generated: greedily, drawn, by the device alone. The head sees the rows before the
 * answer's tokens only.
 */
#include "10_full_model/commands/logprobs.h"

#include "common/core/ops.h"
#include "common/core/utf8.h"
#include "common/files/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Logits [drawn, vocab] from the tokens before the answer's; the caller frees them. */
static float *answer_logits(Model *model, const DecoderSequence *s) {
    Context *ctx = model->ctx;
    int64_t length = s->count - 1, rows = s->drawn, width = model->cfg.hidden_size;
    const DecoderRun run = {.position = model_position(model)};
    Tensor *x = decoder_states(ctx, &model->decoder,
                               tensor_copy_in(ctx, "ids", I32, s->ids, SHAPE(1, length)), &run);
    x = slice(ctx, reshape(ctx, x, SHAPE(1, length * width)), (length - rows) * width,
              rows * width);
    Tensor *logits = decoder_logits(ctx, &model->decoder, reshape(ctx, x, SHAPE(1, rows, width)));
    float *values = must_alloc((size_t)tensor_count(logits), sizeof *values);
    tensor_download(ctx, values, logits);
    context_reset(ctx);
    return values;
}

static double log_softmax(const float *logits, int vocab, int id) {
    double largest = logits[0], sum = 0;
    for (int i = 1; i < vocab; i++) largest = logits[i] > largest ? logits[i] : largest;
    for (int i = 0; i < vocab; i++) sum += exp(logits[i] - largest);
    return logits[id] - largest - log(sum);
}

static void append(void *user, const char *text, size_t bytes) { strncat(user, text, bytes); }

void logprobs_print(FILE *out, Model *model, const Generator *g, int b, int prompt) {
    const DecoderSequence *s = &g->decoding.sequences[b];
    int vocab = model->cfg.vocab_size;
    float *logits = s->drawn ? answer_logits(model, s) : NULL;
    for (int i = 0; i < s->drawn; i++) {
        size_t bytes;
        int32_t id = s->ids[s->count - s->drawn + i];
        const char *token = tokenizer_token(g->tokenizer, id, &bytes);
        char *whole = must_alloc(3 * bytes + 1, 1), number[32]; /* U+FFFD has three */
        *whole = 0;
        TextStream stream = text_stream(append, whole, NULL, 0);
        text_stream_add(&stream, token, bytes);
        text_stream_end(&stream);
        snprintf(number, sizeof number, "%.6f", log_softmax(logits + (size_t)i * vocab, vocab, id));
        cJSON *json = cJSON_CreateObject();
        cJSON_AddNumberToObject(json, "prompt", prompt);
        cJSON_AddNumberToObject(json, "id", id);
        cJSON_AddStringToObject(json, "token", whole);
        cJSON_AddRawToObject(json, "logprob", number);
        char *line = cJSON_PrintUnformatted(json);
        if (!line) fatal("out of memory");
        terminal_print(out, line);
        fputc('\n', out);
        cJSON_free(line);
        cJSON_Delete(json);
        free(whole);
    }
    free(logits);
}
