/*
 * What a model is: the numbers of its config.json, under Hugging Face's names.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include "../03_multihead/multihead.h"
#include "../common/error.h"

typedef struct ModelConfig {
    int vocab_size;
    int hidden_size;       /* width of the residual stream */
    int intermediate_size; /* width of SwiGLU's gate and up */
    int num_hidden_layers;
    int num_attention_heads;
    int num_key_value_heads; /* fewer than heads: grouped-query attention */
    int head_dim;
    int max_position_embeddings; /* the longest context */
    float rms_norm_eps;
    float initializer_range;  /* standard deviation of the weights at the start */
    bool tie_word_embeddings; /* the head is the embedding table again */
} ModelConfig;

/* A size by name: "nano", "small". -1 and a message that lists the names if there is none such. vocab_size is left 0. */
int config_preset(ModelConfig *cfg, const char *name, Error *err);

/* 0, or -1 and which number is wrong, what it is, and what it may be. */
int config_check(const ModelConfig *cfg, Error *err);

/* DIR/config.json. Missing keys are named; a model_type this program does not know is refused. */
int config_load(ModelConfig *cfg, const char *directory, Error *err);
int config_save(const ModelConfig *cfg, const char *directory, Error *err);

/* How many numbers the model holds. Allocates nothing. */
int64_t config_parameters(const ModelConfig *cfg);

MultiheadConfig config_attention(const ModelConfig *cfg);

#endif
