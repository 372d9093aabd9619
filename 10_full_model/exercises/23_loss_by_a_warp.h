/*
 * A row of logits in a GPU's memory, and a warp of 32 lanes that works on it, to practise on
 * without a GPU. Every access to the row goes through load and store, and is counted as memory
 * counts: the first load of each lane after a shuffle is one instruction of the warp, so is the
 * second of each, and so on; an instruction costs as many pieces as there are different pieces of
 * 32 neighbouring numbers (128 bytes) in what its lanes ask for. Stores likewise.
 */
#ifndef LOSS_BY_A_WARP_H
#define LOSS_BY_A_WARP_H

/* shuffle_xor(mine, mask): gives `mine` to lane (my number ^ mask), returns what that lane gave */
#include "01_self_attention/exercises/warp.h"

float load(int index);
void store(int index, float value);

#endif
