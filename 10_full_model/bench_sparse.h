/*
 * bench_sparse's tables of a GPU, with DeepSeek-V3.2's sizes: 128 heads over latents of 512 + 64
 * numbers, an indexer of 64 heads of 128 numbers over keys in eight bits, k of 2048.
 */
#ifndef BENCH_SPARSE_H
#define BENCH_SPARSE_H

#include "common/program/bench.h"

/* `most`: the longest text. CSV rows as bench_sparse's. */
void bench_sparse_cuda(Bench *bench, int k, int most);

#endif
