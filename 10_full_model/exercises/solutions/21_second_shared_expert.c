/*
 * Solution 10.21: rows of gate and up make hidden numbers of their own, so the second expert's
 * rows stand beneath the first's. down reads them, so its columns stand side by side, row by row:
 * y is then the sum over both halves. (Tempting: to append the second down as a whole. It has the
 * same count of numbers, and every row but the first is wrong.)
 *
 * One expert more for everybody is one less to choose: 2 becomes 1. But then the weight of the
 * only chosen expert, divided by the sum of the weights, is 1 whatever its score is, so the router
 * gets no gradient (chapter 05): norm_topk_prob must go. The losses end alike; a text that two
 * layers can learn by heart does not tell architectures apart. What a shared expert is for,
 * keeping what all tokens need out of the routed ones, needs more to know.
 */
#include "10_full_model/model/config.h"

#include <string.h>

typedef struct SharedExpert {
    float *gate, *up, *down;
} SharedExpert;

void join(SharedExpert *both, const SharedExpert experts[2], int inner, int hidden);
void second_shared(ModelConfig *cfg);
extern const int verdict;

const int verdict = 2;

void join(SharedExpert *both, const SharedExpert experts[2], int inner, int hidden) {
    for (int e = 0; e < 2; e++) {
        size_t matrix = (size_t)inner * (size_t)hidden;
        memcpy(both->gate + (size_t)e * matrix, experts[e].gate, matrix * sizeof(float));
        memcpy(both->up + (size_t)e * matrix, experts[e].up, matrix * sizeof(float));
        for (int row = 0; row < hidden; row++)
            memcpy(both->down + (2 * row + e) * inner, experts[e].down + row * inner,
                   (size_t)inner * sizeof(float));
    }
}

void second_shared(ModelConfig *cfg) {
    cfg->n_shared_experts++;
    cfg->num_experts_per_tok--;
    if (cfg->num_experts_per_tok == 1) cfg->norm_topk_prob = false;
}
