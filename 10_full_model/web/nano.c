/*
 * Reading the piece of memory: the settings, the tokens, then weight after weight.
 */
#include "10_full_model/web/nano.h"

#include "08_quant/quantised.h"
#include "10_full_model/model/sizes.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

QuantFormat nano_format(const Tensor *w) {
    int in = (int)tensor_dim(w, -1);
    if (w->ndim < 2 || (!size_quantisable(w) && !strstr(w->name, "embed_tokens")))
        return (QuantFormat){.dtype = F32};
    bool small = strstr(w->name, ".mlp.") && in % 32 == 0;
    return (QuantFormat){small ? I4 : U8, 1, small ? 32 : in, SCALE_BF16};
}

/* What is left to be read. */
typedef struct Reader {
    const char *at, *end;
} Reader;

static int take(Reader *r, void *to, size_t bytes, Error *err) {
    if ((size_t)(r->end - r->at) < bytes) return error_set(err, "the model's file is cut short");
    memcpy(to, r->at, bytes);
    r->at += bytes;
    return 0;
}

/* ---- tokens ---- */

static char *joined(const char *a, const char *b) {
    char *text = must_alloc(strlen(a) + strlen(b) + 1, 1);
    return strcat(strcpy(text, a), b);
}

static int read_tokens(Nano *n, Reader *r, int vocab, Error *err) {
    size_t bytes = (size_t)n->merge_count * sizeof *n->merges;
    n->merges = must_alloc((size_t)n->merge_count + 1, sizeof *n->merges);
    if (take(r, n->byte_id, sizeof n->byte_id, err) || take(r, n->merges, bytes, err)) return -1;
    for (int b = 0; b < 256; b++) {
        char text[2] = {(char)b};
        if (n->byte_id[b] < 0 || n->byte_id[b] >= vocab)
            return error_set(err, "byte %d has no id", b);
        n->token[n->byte_id[b]] = must_strdup(text);
    }
    for (int i = 0; i < n->merge_count; i++) {
        NanoMerge m = n->merges[i];
        if (m.left < 0 || m.left >= vocab || m.right < 0 || m.right >= vocab || m.result < 0 ||
            m.result >= vocab || !n->token[m.left] || !n->token[m.right])
            return error_set(err, "merge %d is of tokens that do not exist", i);
        n->token[m.result] = joined(n->token[m.left], n->token[m.right]);
    }
    return 0;
}

/* Letters, digits, or other signs: 1, 2, 3; white space: 0. */
static int kind(char c) {
    unsigned char u = (unsigned char)c;
    return isspace(u) ? 0 : isalpha(u) || u >= 0x80 ? 1 : isdigit(u) ? 2 : 3;
}

static size_t word_length(const char *text) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (int e = 0; e < 7; e++)
        if (!strncmp(text, endings[e], strlen(endings[e]))) return strlen(endings[e]);
    size_t i = 0;
    if (!kind(text[0])) { /* all but the last of some white space; a single space joins its word */
        while (text[i] && !kind(text[i])) i++;
        if (!text[i] || i > 1) return i > 1 && text[i] ? i - 1 : i;
        if (text[0] != ' ') return 1;
    }
    int of = kind(text[i]);
    while (text[i] && kind(text[i]) == of) i++;
    return i;
}

/* One word's ids in place: its bytes, then the merge learned first, the leftmost first. */
static int merge_word(const Nano *n, int32_t *ids, int count) {
    for (int best = 0; best < n->merge_count;) {
        int at = -1;
        best = n->merge_count;
        for (int i = 0; i + 1 < count; i++)
            for (int m = 0; m < best; m++)
                if (n->merges[m].left == ids[i] && n->merges[m].right == ids[i + 1])
                    best = m, at = i;
        if (at < 0) return count;
        ids[at] = n->merges[best].result;
        memmove(ids + at + 1, ids + at + 2, (size_t)(count - at - 2) * sizeof *ids);
        count--;
    }
    return count;
}

int nano_encode(const Nano *n, int32_t *ids, int most, const char *text) {
    int count = 0;
    for (size_t length; *text && count < most; text += length) {
        int32_t word[64];
        length = word_length(text);
        if (length > 64) length = 64;
        for (size_t i = 0; i < length; i++) word[i] = n->byte_id[(unsigned char)text[i]];
        int made = merge_word(n, word, (int)length);
        for (int i = 0; i < made && count < most; i++) ids[count++] = word[i];
    }
    return count;
}

/* ---- weights ---- */

static int read_weight(Nano *n, Reader *r, Tensor *w, Error *err) {
    Params *params = &n->model.params;
    QuantFormat format = nano_format(w);
    int64_t in = tensor_dim(w, -1), out = tensor_count(w) / in;
    float *values = must_alloc((size_t)tensor_count(w), sizeof *values);
    int status;
    if (format.dtype == F32) {
        status = take(r, values, sizeof *values * (size_t)tensor_count(w), err);
        if (!status) params_set(params, w, values);
        free(values);
        return status;
    }
    size_t bytes = quant_code_bytes(&format, out, in),
           count = (size_t)quant_scale_count(&format, out, in);
    uint8_t *codes = must_alloc(bytes, 1);
    uint16_t *halves = must_alloc(count, sizeof *halves);
    float *scales = must_alloc(count, sizeof *scales);
    status = take(r, codes, bytes, err) || take(r, halves, count * sizeof *halves, err) ? -1 : 0;
    for (size_t i = 0; i < count && !status; i++) scales[i] = bf16_to_float(halves[i]);
    if (!status && w->quantised)
        params_set_codes(params, w, codes, scales);
    else if (!status) {
        dequantise(values, codes, scales, out, in, &format);
        params_set(params, w, values);
    }
    free(values), free(codes), free(halves), free(scales);
    return status;
}

static int read_buffer(Nano *n, Reader *r, Tensor *b, Error *err) {
    if (b->dtype != F32) return 0; /* counters, which begin at zero */
    float *values = must_alloc((size_t)tensor_count(b), sizeof *values);
    int status = take(r, values, tensor_bytes(b), err);
    if (!status) params_set(&n->model.params, b, values);
    free(values);
    return status;
}

static int read_model(Nano *n, Reader *r, const int32_t *header, bool numbers, Error *err) {
    ModelConfig cfg;
    if (config_preset(&cfg, "nano-q", err)) return -1;
    cfg.model_type = DEEPSEEK_V32;
    cfg.vocab_size = header[1];
    cfg.index_n_heads = header[2], cfg.index_head_dim = header[3], cfg.index_topk = header[4];
    cfg.rope_interleave = true;
    if (config_check(&cfg, err) || model_register(&n->model, &n->ctx, &cfg, err)) return -1;
    Params *params = &n->model.params;
    for (int i = 0; i < params->count && !numbers; i++) {
        QuantFormat f = nano_format(params->list[i]);
        if (f.dtype == F32 || !size_quantisable(params->list[i])) continue;
        params_set_quantised(params, params->list[i], f.dtype, 1, f.block_in,
                             &quantised_weight_only);
    }
    int status = model_allocate(&n->model, false, err);
    for (int i = 0; i < params->count && !status; i++)
        status = read_weight(n, r, params->list[i], err);
    for (int i = 0; i < params->buffer_count && !status; i++)
        status = read_buffer(n, r, params->buffers[i], err);
    return status;
}

int nano_open(Nano *n, const void *data, size_t size, bool numbers, Error *err) {
    Reader r = {data, (const char *)data + size};
    int32_t header[NANO_HEADER];
    *n = (Nano){0};
    if (!data || take(&r, header, sizeof header, err)) return error_set(err, "there is no model");
    if (header[0] != NANO_MAGIC || header[1] < 256 || header[1] > NANO_MOST_TOKENS ||
        header[5] < 0 || header[5] > NANO_MOST_TOKENS)
        return error_set(err, "the model's file has another form");
    n->merge_count = header[5];
    if (context_init(&n->ctx, CPU, F32, 1, err) || read_tokens(n, &r, header[1], err)) return -1;
    return read_model(n, &r, header, numbers, err);
}
