/*
 * Exercise 10.12: when does it pay?
 *
 * Predict four numbers (12_when_it_pays.h says of what) by counting as SPARSE.md's first table
 * does. The check counts with the program's own sizes; 1 % off is right.
 *
 * POINTS: 3
 * TESTS: check_12_when_it_pays
 */
#include "10_full_model/exercises/12_when_it_pays.h"

const double times_fewer_at_128k = 1;
const double crossing = 2048;
const double most_times_fewer = 1;
const double bytes_at_128k = 1;
