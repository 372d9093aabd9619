/*
 * Exercise 04.3: make the keys, and send their gradients back.
 *
 * Naive attention needs whole keys. For each token (row) and head h
 *
 *     k[row, h] = [ k_nope[row, h] | k_rope[row] ]          nope + rope numbers
 *
 * where k_nope lies inside kv [rows, H, nope + v], as kv_b_proj made it: per head [k_nope | v]; and
 * k_rope [rows, rope] is one for all heads. (rope may be 0, and k_rope NULL then.)
 *
 * The way back: dk [rows, H, nope + rope] comes in. The nope part of dkv is overwritten (add_kv 0)
 * or added to (1), and likewise dk_rope by add_rope; a NULL gradient is not wanted. The v part of
 * dkv is not yours: do not touch it.
 *
 * Whoever wrote this gave every head only what is its own.
 *
 * POINTS: 3
 * REPLACES: mla_keys_cpu, mla_keys_backward_cpu in 04_mla/mla_cpu.c
 * TESTS: test_mla_kernels:mla_kernels/keys*_cpu test_mla_kernels:mla_kernels/the_shared*_cpu
 * TESTS: test_mla:mla/gradients*
 */
#include "04_mla/mla.h"

void mla_keys_cpu(float *k, const float *kv, const float *k_rope, int64_t rows, MlaShape s) {
    for (int64_t i = 0; i < rows * s.heads; i++)
        for (int c = 0; c < s.nope; c++) k[i * (s.nope + s.rope) + c] = kv[i * (s.nope + s.v) + c];
}

void mla_keys_backward_cpu(float *dkv, int add_kv, float *dk_rope, int add_rope, const float *dk,
                           int64_t rows, MlaShape s) {
    for (int64_t i = 0; i < rows * s.heads; i++)
        for (int c = 0; c < s.nope; c++)
            dkv[i * (s.nope + s.v) + c] = dk[i * (s.nope + s.rope) + c];
}
