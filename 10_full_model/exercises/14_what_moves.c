/*
 * Exercise 10.14: what moves?
 *
 * Predict four numbers of bytes (14_what_moves.h says which), by what PARALLEL.md says of the ring
 * and of ZeRO-1. 1 % off is right.
 *
 * POINTS: 3
 * TESTS: check_14_what_moves
 */
#include "10_full_model/exercises/14_what_moves.h"

const double sent_by_all_reduce = 1;
const double sent_by_zero = 1;
const double kept_by_zero = 1;
const double token_of_v3 = 1;
