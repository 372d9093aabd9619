/*
 * A whole DeepSeek-V3 so small that a test can train it: three layers, of which the first is dense,
 * six experts in two groups. For the tests of this chapter.
 */
#ifndef TEST_TINY_H
#define TEST_TINY_H

#include "10_full_model/model/config.h"

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

#endif
