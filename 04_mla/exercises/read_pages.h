/* What exercise 04.6 shares with its check. */
#ifndef READ_PAGES_H
#define READ_PAGES_H

#include "04_mla/latent_cache.h"

/* Stands for the GPU's memory: counts how often it is read. */
typedef struct Memory Memory;

/* The rows of page number i of the sequence, [PAGE_TOKENS, rank + rope]; valid until the next call.
 * Rows after the sequence's end hold anything. */
const float *read_page(Memory *memory, int i);

/*
 * o [heads, rank]: attention of q [heads, rank + rope] over the `length` latents of one sequence. A
 * row's first `rank` numbers are the value, all of them the key.
 */
void decode_pages(float *o, const float *q, Memory *memory, int length, int heads, int rank,
                  int rope, float scale);

#endif
