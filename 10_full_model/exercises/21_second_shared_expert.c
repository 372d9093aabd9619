/*
 * Exercise 10.21: a second shared expert
 *
 * Every token goes through the shared expert. Change the model twice.
 *
 *   join()            two shared experts are one of twice the width: make its three matrices of
 *                     those of two experts, so that it computes the sum of both.
 *                         y = W_down (silu(W_gate x) * (W_up x))
 *                     gate, up [2 inner, hidden] of two [inner, hidden]; down [hidden, 2 inner] of
 *                     two [hidden, inner]
 *   second_shared()   from the config of a model with one shared expert, that of a model with two,
 *                     in which a token meets as many experts as before, shared ones included. If
 *                     the model cannot be made, read why
 *
 * The check trains both models and says their losses. Fill in the verdict: with the second shared
 * expert the loss is 1 lower, 2 the same (to 0.02), 3 higher. Guess before you run it.
 *
 * POINTS: 3
 */
#include "10_full_model/model/config.h"

typedef struct SharedExpert {
    float *gate, *up, *down;
} SharedExpert;

void join(SharedExpert *both, const SharedExpert experts[2], int inner, int hidden);
void second_shared(ModelConfig *cfg);
extern const int verdict;

const int verdict = 0;

void join(SharedExpert *both, const SharedExpert experts[2], int inner, int hidden) {}

void second_shared(ModelConfig *cfg) {}
