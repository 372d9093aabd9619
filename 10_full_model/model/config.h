/*
 * What a model is: the numbers of its config.json, under Hugging Face's names.
 *
 * There are three model types. deepseek_v3 (and with it R1) and deepseek_v2 differ in the router:
 * V3 scores with a sigmoid and chooses with a bias, V2 with a softmax and without one; the rest is
 * settings. deepseek_v32 is V3 with an indexer in each layer that picks the tokens attention looks
 * at (sparse/indexer.h). What this file knows of files, it knows of both spellings that are in use
 * for the positions: rope_theta with rope_scaling, and rope_parameters.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include "06_mtp/mtp.h"
#include "07_rope/rope.h"
#include "10_full_model/sparse/indexer.h"
#include "common/core/error.h"

typedef enum ModelType { DEEPSEEK_V3, DEEPSEEK_V2, DEEPSEEK_V32 } ModelType;
extern const char *const config_type_names[]; /* in ModelType's order; NULL behind the last */

/* How a folder's linear weights are stored; the names of quantization_config's quant_method. */
typedef enum StoredAs {
    STORED_PLAIN,
    STORED_FP8,    /* DeepSeek's: E4M3, a scale for each tile of 128 x 128 */
    STORED_PACKED, /* compressed-tensors' pack-quantized: INT4 or INT8 in I32 words */
} StoredAs;
typedef enum ScaleFormat { SCALE_FLOAT, SCALE_UE8M0 } ScaleFormat;
enum { FP8_BLOCK = 128 };

typedef struct ModelConfig {
    ModelType model_type;
    int vocab_size;
    int hidden_size; /* width of the residual stream */
    int num_hidden_layers;
    int intermediate_size; /* of the dense layers' SwiGLU */

    int num_attention_heads;
    int q_lora_rank;  /* 0 here, null in the file: queries are not compressed */
    int kv_lora_rank; /* 0 here, null in the file: multi-head attention, see config_has_latents */
    int qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    bool attention_bias;
    int index_n_heads, index_head_dim, index_topk; /* V3.2's indexer; else 0 */

    int moe_intermediate_size;
    int n_routed_experts; /* 0: all layers are dense */
    int n_shared_experts, num_experts_per_tok, n_group, topk_group;
    int first_k_dense_replace;
    TopkMethod topk_method; /* V3: always noaux_tc */
    bool norm_topk_prob;    /* V2 never divides, whatever its file says */
    float routed_scaling_factor;

    int num_nextn_predict_layers; /* modules for multi-token prediction, behind the last layer */
    int max_position_embeddings;  /* the longest context */
    int trained_context_length;   /* of the texts it was trained on; 0 here, null there: unknown */
    double rope_theta;
    bool rope_interleave; /* V2, V3.2: always */
    RopeType rope_type;
    double rope_factor, rope_beta_fast, rope_beta_slow, rope_mscale, rope_mscale_all_dim;
    double rope_attention_factor;         /* 0: not given */
    int original_max_position_embeddings; /* yarn */

    float rms_norm_eps;
    float initializer_range;        /* standard deviation of the weights at the start */
    bool tie_word_embeddings;       /* the head is the embedding table again */
    int bos_token_id, eos_token_id; /* -1: none */
    DType dtype; /* of the weights in the file: F32 or BF16. Only config_save looks at
                                       it; a file's tensors say themselves what they are */

    /* quantization_config. Which weights are quantised, a file's tensors say themselves. */
    StoredAs quant_method;
    ScaleFormat scale_fmt; /* of FP8: any number, or a power of two */
    int num_bits;          /* packed: 4 or 8 */
    int group_size;        /* packed: numbers of a row with one scale; 0: the whole row */
} ModelConfig;

/* A size by name; its first line in `deepseek info` says what it is for. -1 and a message that
 * lists the names if there is none such. A preset without a vocabulary of its own leaves
 * vocab_size 0. */
int config_preset(ModelConfig *cfg, const char *name, Error *err);

/* Name and purpose of preset i, for lists; NULL behind the last. */
const char *config_preset_name(int i);
const char *config_preset_about(int i);

/* 0, or -1 and which setting is wrong, what it is, and what it may be. */
int config_check(const ModelConfig *cfg, Error *err);

/*
 * DIR/config.json, which means what it means to transformers 5: keys that are missing have its
 * defaults for the model type (with a line on stderr where sizes are missing), the last of two
 * equal keys counts, null is read as there. What transformers accepts and this program cannot
 * compute is refused by name; a model_type that it does not know, with those that it knows.
 */
int config_load(ModelConfig *cfg, const char *directory, Error *err);

/* high: the modules with linear weights that are not quantised, for other programs, NULL behind the
 * last; NULL: none. */
int config_save(const ModelConfig *cfg, const char *const *high, const char *directory, Error *err);

/* Puts into DIRECTORY/config.json, which config_save() wrote, the keys of FROM_DIRECTORY's that
 * this program does not know, as they are there. */
int config_keep_others(const char *from_directory, const char *directory, Error *err);

/* The settings of the parts. */
BlockConfig config_block(const ModelConfig *cfg);
RopeConfig config_rope(const ModelConfig *cfg);
/*
 * Latent attention, or (kv_lora_rank 0) chapter 03's multi-head attention, with which the latent
 * one is compared: each head has a key and a value of its own, both of v_head_dim numbers, which is
 * qk_nope_head_dim + qk_rope_head_dim, and the last of a key are rotated. transformers has no such
 * model under these names.
 */
bool config_has_latents(const ModelConfig *cfg);
IndexerConfig config_indexer(const ModelConfig *cfg); /* of a deepseek_v32 model */
bool config_is_sparse(const ModelConfig *cfg);        /* is it one? */

/* -1, and a message that begins with `what` and says that only latent attention has it, unless this
 * model has that. */
int config_needs_latents(const ModelConfig *cfg, const char *what, Error *err);

/* How many numbers the model has, and how many of them one token is multiplied with (the embedding
 * table, of which it takes one row, not among them); without the modules for multi-token
 * prediction. And what those have of their own: embedding and head, which they share, not counted.
 * Allocates nothing. */
int64_t config_parameters(const ModelConfig *cfg);
int64_t config_active_parameters(const ModelConfig *cfg);
int64_t config_module_parameters(const ModelConfig *cfg);

#endif
