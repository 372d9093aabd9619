/*
 * Exercise 04.8: where the two modes cross.
 *
 * T new tokens meet a very long cache, S tokens with S far larger than T. Naive attention makes
 * keys and values of all S first; absorbed attention does not, but pays more for each pair of a
 * query and a cached token. So naive wins from some T on, and MLA_AUTO has to know it.
 *
 *   operations_naive       operations per pair, for each head, with nope 96, rope 32, v 64,
 *                          kv_lora_rank 384: score and weighted sum; a multiply-add is two
 *   operations_absorbed    the same for absorbed attention
 *   operations_expanding   operations to make one cached token's key and value, for each head
 *   largest_chunk()        the T at which both cost the same, for any sizes and S without end: a
 *                          fraction. -1 when absorbed is cheaper for every T
 *
 * POINTS: 3
 */
#include "04_mla/mla.h"

extern const int operations_naive, operations_absorbed, operations_expanding;
double largest_chunk(const MlaConfig *cfg);

const int operations_naive = 0;
const int operations_absorbed = 0;
const int operations_expanding = 0;

double largest_chunk(const MlaConfig *cfg) { return cfg->kv_lora_rank; }
