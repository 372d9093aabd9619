/*
 * Exercise 10.2: size a model to a budget
 *
 * Before a model is trained somebody must know whether it fits. Count its numbers from the config
 * alone, allocating nothing: the embedding table [vocab_size, hidden_size]; for each layer latent
 * attention (the shapes stand in 04_mla/mla.h), two norms, and a dense SwiGLU in the first
 * first_k_dense_replace layers, router and experts in the others; the last norm; and the head,
 * unless it is the table again. Do not call block_parameters().
 *
 * Then, by hand: of V3's 671 billion numbers, how many are in routed experts?
 *
 * POINTS: 3
 * REPLACES: config_parameters in 10_full_model/model/config.c
 * TESTS: test_model:model/config_counts_the_parameters
 */
#include "10_full_model/model/config.h"

int64_t config_parameters(const ModelConfig *cfg) { return 0; }
