/*
 * Solution 10.12. A token that is read costs attention 128 (2 576 + 2 512) = 278,528 operations and
 * the indexer 2 64 128 = 16,384, a seventeenth. With n tokens, sparse is 16,384 n + 278,528 2048:
 * less than 278,528 n from 278,528 2048 / (278,528 - 16,384) = 2,176 on, hardly more than k. Bytes:
 * 1,152 n against 132 n + 1,152 2048. The tempting answer to the second is k itself: but the
 * indexer reads all tokens, too.
 */
#include "10_full_model/exercises/12_when_it_pays.h"

const double times_fewer_at_128k = 13.43; /* 36.5 / 2.72 */
const double crossing = 2176;
const double most_times_fewer = 17;
const double bytes_at_128k = 7.68;
