/*
 * What experts store, and what a token is multiplied with: a table for the demo.
 *
 * Three rows, that differ in one thing: how many experts a token does not meet.
 */
#ifndef PARAMETER_TABLE_H
#define PARAMETER_TABLE_H

#include "05_moe/moe.h"

/* Prints a layer that can be counted by hand, DeepSeek-V3, and a layer of one's own. */
void parameter_table(const MoeConfig *own);

#endif
