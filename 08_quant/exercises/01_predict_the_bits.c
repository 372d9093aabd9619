/*
 * Exercise 08.1: predict the bits, and what they cost.
 *
 * With a pencil:
 *
 *   int4_bits     bits of a number in INT4 in groups of 128 with a scale in F32, its share included
 *   fp8_bytes     bytes of kv_a_proj_with_mqa [576, 7168] in V3's files: E4M3, a scale in F32 for
 *                 each 128 x 128 (ragged last blocks have one, too)
 *   row_bytes     bytes of a token in a latent cache in FP8: 512 numbers in E4M3, a scale in F32
 *                 for each 128 of them, 64 numbers in BF16
 *   beside_100    error of normal numbers (about 1) in INT8 beside one that is 100, ||w' - w|| /
 *                 ||w||: rounding to steps of s is off by up to s / 2 each way, all of it equally
 *                 likely. Two digits
 *   largest_e4m3  the largest number of E4M3 (bias 7; the code with all bits set is NaN), and
 *   least_e4m3    the smallest positive one, times 512
 *
 * POINTS: 2
 */
extern const double int4_bits, beside_100, largest_e4m3, least_e4m3;
extern const long long fp8_bytes, row_bytes;

const double int4_bits = 0;
const long long fp8_bytes = 0;
const long long row_bytes = 0;
const double beside_100 = 0;
const double largest_e4m3 = 0;
const double least_e4m3 = 0;
