/*
 * Solution 10.14. In a ring each rank sends 7 of 8 pieces twice: once while they are added up, once
 * while the sums go round. ZeRO-1 sends the same pieces, but the second time weights, which in BF16
 * are half as long: 7/8 (4 + 2) bytes a parameter. It keeps 12 bytes for an eighth of them. The
 * tempting answer to the first is 4 bytes times 8 or 7 ranks: that is what everybody sending
 * everything to everybody costs.
 */
#include "10_full_model/exercises/14_what_moves.h"

const double sent_by_all_reduce = 7.0 / 8 * 8 * 108978176.0;
const double sent_by_zero = 7.0 / 8 * 6 * 108978176.0;
const double kept_by_zero = 12.0 / 8 * 108978176.0;
const double token_of_v3 = 2 * 8 * 7168 * 2.0;
