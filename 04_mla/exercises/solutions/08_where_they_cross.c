/*
 * Solution 04.8.  2 r (nope + v) + 2 T (nope + rope + v) = 2 T (2 r + rope), r the rank. The heads
 * are on both sides and cancel; so does the part for positions, which both pay. The tempting wrong
 * answer lets absorbing, 2 r (nope + v) for each NEW token, count as well: with S without end it is
 * nothing beside S pairs. When 2 r <= nope + v a latent is no longer than what it stands for, and
 * there is no T: absorbed always wins.
 */
#include "04_mla/mla.h"

extern const int operations_naive, operations_absorbed, operations_expanding;
double largest_chunk(const MlaConfig *cfg);

const int operations_naive = 2 * (96 + 32 + 64);
const int operations_absorbed = 2 * (384 + 32 + 384);
const int operations_expanding = 2 * 384 * (96 + 64);

double largest_chunk(const MlaConfig *cfg) {
    double rank = cfg->kv_lora_rank, head = cfg->qk_nope_head_dim + cfg->v_head_dim;
    double more = 2 * rank - head; /* multiply-adds that absorbed pays more for a pair */
    return more <= 0 ? -1 : rank * head / more;
}
