/*
 * Exercise 10.2: size a model to a budget
 *
 * Before a model is trained somebody must know whether it fits. Count its numbers from the config
 * alone, allocating nothing: the embedding table [vocab_size, hidden_size]; for each layer latent
 * attention (the shapes stand in 04_mla/mla.h), two norms, and a dense SwiGLU in the first
 * first_k_dense_replace layers, router and experts in the others; the last norm; and the head,
 * unless it is the table again. (block_parameters() is not there to be called.)
 *
 * Then, by hand: by how many billions would V3 grow if it had one layer more, with experts?
 *
 * POINTS: 3
 * REPLACES: config_parameters in 10_full_model/model/config.c
 *   block_parameters in 05_moe/decoder/block.c
 * TESTS: check_02_count_parameters
 */
#include "10_full_model/model/config.h"

extern const double one_layer_more; /* billions; 0.5 % off is right */

const double one_layer_more = 0;

int64_t config_parameters(const ModelConfig *cfg) { return 0; }
