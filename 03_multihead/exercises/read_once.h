/*
 * A memory that counts: the keys of a cache, one at a time.
 */
#ifndef READ_ONCE_H
#define READ_ONCE_H

#include <stdint.h>

typedef struct Memory Memory;

/* Key t of key head g: D numbers, valid until the next call. */
const float *read_key(Memory *memory, int g, int t);

void group_scores(float *scores, const float *q, Memory *memory, int H, int H_kv, int D,
                  int length);

#endif
