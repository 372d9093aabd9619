/*
 * Exercise 10.1: size a model to a budget
 *
 * Before a model is trained somebody must know whether it fits. Count its numbers from the config alone, allocating nothing:
 * the embedding table [vocab_size, hidden_size]; for each layer four attention matrices, three of the MLP, two norm vectors;
 * the last norm; and the head, unless it is the table again.
 *
 * Then, by hand: how many parameters has `nano` with 2,048 tokens, and which of its parts is the largest?
 *
 * POINTS: 2
 * REPLACES: config_parameters in 10_full_model/config.c
 * TESTS: test_model:model/config_counts_the_parameters
 * HINT: k_proj and v_proj have num_key_value_heads * head_dim rows, q_proj has num_attention_heads * head_dim, and o_proj
 * is q_proj's shape turned over. Multiply in int64_t: a large model has more than 2^31 parameters.
 */
#include "config.h"

int64_t config_parameters(const ModelConfig *cfg) { return 0; }
