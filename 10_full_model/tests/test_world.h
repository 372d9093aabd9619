/*
 * A model, a text, a tokenizer and the options to train it: all small enough for a test of a
 * second. The world of this chapter's tests and of its exercises' checks.
 */
#ifndef TEST_WORLD_H
#define TEST_WORLD_H

#include "10_full_model/train/train.h"

#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <signal.h>

/* A whole DeepSeek-V3: three layers, of which the first is dense, six experts in two groups. */
static inline ModelConfig tiny_config(int vocab_size) {
    return (ModelConfig){.model_type = DEEPSEEK_V3,
                         .vocab_size = vocab_size,
                         .hidden_size = 12,
                         .intermediate_size = 20,
                         .num_hidden_layers = 3,
                         .num_attention_heads = 3,
                         .q_lora_rank = 7,
                         .kv_lora_rank = 8,
                         .qk_nope_head_dim = 5,
                         .qk_rope_head_dim = 4,
                         .v_head_dim = 6,
                         .moe_intermediate_size = 9,
                         .n_routed_experts = 6,
                         .n_shared_experts = 1,
                         .num_experts_per_tok = 2,
                         .n_group = 2,
                         .topk_group = 1,
                         .first_k_dense_replace = 1,
                         .topk_method = TOPK_NOAUX_TC,
                         .norm_topk_prob = true,
                         .routed_scaling_factor = 1.5f,
                         .max_position_embeddings = 64,
                         .rope_theta = 100,
                         .rope_type = ROPE_DEFAULT,
                         .rope_factor = 1,
                         .rms_norm_eps = 1e-6f,
                         .initializer_range = 0.3f, /* large, so that every part matters */
                         .bos_token_id = -1,
                         .eos_token_id = -1};
}

/* The same with sizes that the kernels for few rows take: multiples of 16 and 32. */
static inline ModelConfig tiny_even_config(int vocab_size) {
    ModelConfig cfg = tiny_config(vocab_size);
    cfg.hidden_size = 64, cfg.intermediate_size = 96, cfg.moe_intermediate_size = 32;
    cfg.num_attention_heads = 2, cfg.q_lora_rank = 32, cfg.kv_lora_rank = 32;
    cfg.qk_nope_head_dim = 32, cfg.qk_rope_head_dim = 16, cfg.v_head_dim = 16;
    cfg.initializer_range = 0.15f;
    return cfg;
}

/* V3.2: the same with indexers that pick 6 tokens. */
static inline ModelConfig tiny_sparse_config(ModelConfig cfg) {
    cfg.model_type = DEEPSEEK_V32;
    cfg.rope_interleave = true;
    cfg.index_n_heads = 3, cfg.index_head_dim = 16, cfg.index_topk = 6;
    return cfg;
}

typedef struct World {
    Context ctx;
    Model model;
    Tokenizer *tokenizer;
    Corpus corpus;
    TokenSource source;
    TrainOptions options;
    Scratch scratch;
} World;

/* A model of random weights and no more. In place: it keeps a pointer to w->ctx. */
static inline void world_model(World *w, Device device, DType dtype, ModelConfig cfg,
                               bool training) {
    *w = (World){.ctx = test_context(device, dtype), .options = train_defaults()};
    Error err = {0};
    check_ok(model_init(&w->model, &w->ctx, &cfg, training, &err), &err);
    model_randomize(&w->model);
}

/* One sentence, sixty times. */
static inline char *world_text(size_t *size) {
    enum { COPIES = 60 };
    static const char sentence[] =
        "the cat sat on the mat and the dog sat on the log; the frog sat in the fog. ";
    size_t length = strlen(sentence);
    char *text = must_alloc(COPIES, length);
    for (int i = 0; i < COPIES; i++) memcpy(text + i * length, sentence, length);
    *size = COPIES * length;
    return text;
}

/* All that training needs. */
static inline void world_init(World *w, Device device, DType dtype) {
    Error err = {0};
    size_t size;
    char *text = world_text(&size);
    Tokenizer *tokenizer = tokenizer_train(text, size, 290, NULL, NULL, &err);
    cr_assert(tokenizer, "%s", err.text);
    ModelConfig cfg = tiny_config(tokenizer_vocab_size(tokenizer));
    cfg.hidden_size = cfg.max_position_embeddings = 32;
    cfg.num_hidden_layers = 2;
    cfg.initializer_range = 0.05f;
    cfg.tie_word_embeddings = true;
    world_model(w, device, dtype, cfg, true);
    w->tokenizer = tokenizer;
    check_ok(corpus_init(&w->corpus, tokenizer, text, size, 0.1, 16, &err), &err);
    w->source = source_of_corpus(&w->corpus);
    w->options.schedule = (Schedule){.steps = 60, .warmup = 5, .peak = 1e-2f, .floor = 3e-4f};
    w->options.batch_size = 8;
    w->options.context_length = 16;
    w->options.eval_interval = 20;
    w->options.eval_batches = 1;
    w->options.quiet = true;
}

/* A source that sends the process a signal when this window is asked for (0: never). */
typedef struct Alarm {
    TokenSource inner;
    uint64_t window;
    int signal;
} Alarm;

static inline void alarm_batch(void *self, uint64_t seed, uint64_t first, int batch, int length,
                               int32_t *inputs, int32_t *targets) {
    Alarm *a = self;
    if (a->window && first == a->window) raise(a->signal);
    source_batch(&a->inner, seed, first, batch, length, inputs, targets);
}

static inline void alarm_validation(void *self, int i, int count, int length, int32_t *inputs,
                                    int32_t *targets) {
    source_validation(&((Alarm *)self)->inner, i, count, length, inputs, targets);
}

static inline TokenSource alarm_source(Alarm *alarm) {
    TokenSource source = alarm->inner;
    source.self = alarm;
    source.batch = alarm_batch;
    source.validation = alarm_validation;
    return source;
}

#endif
