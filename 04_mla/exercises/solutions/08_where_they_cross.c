/*
 * Exercise 04.8, a solution: 2 r (nope + v) + 2 T (nope + rope + v) = 2 T (2 r + rope), r the
 * rank. The heads are on both sides and cancel; so does the part for positions.
 */
#include "04_mla/mla.h"

extern const int operations_naive, operations_absorbed, operations_expanding;
double largest_chunk(const MlaConfig *cfg);

const int operations_naive = 2 * (128 + 64 + 128);
const int operations_absorbed = 2 * (512 + 64 + 512);
const int operations_expanding = 2 * 512 * (128 + 128);

double largest_chunk(const MlaConfig *cfg) {
    double rank = cfg->kv_lora_rank, head = cfg->qk_nope_head_dim + cfg->v_head_dim;
    double more = 2 * rank - head; /* multiply-adds that absorbed pays more for a pair */
    return more <= 0 ? -1 : rank * head / more;
}
