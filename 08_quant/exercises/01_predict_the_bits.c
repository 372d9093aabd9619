/*
 * Exercise 08.1: predict the bits, and what they cost.
 *
 * With a pencil:
 *
 *   int4_bits     bits of a number in INT4 in groups of 128 with a scale in BF16, its share of that
 *                 included
 *   fp8_bytes     bytes of a weight [2112, 7168] in the layout of V3's files: E4M3, a scale in F32
 *                 for each 128 x 128 (ragged last blocks have one, too)
 *   row_bytes     bytes of a token in a latent cache in FP8: 256 numbers in E4M3, a scale in F32
 *                 for each 128 of them, 32 numbers in BF16
 *   beside_30     error of normal numbers (about 1) in INT8 beside one that is 30, ||w' - w|| /
 *                 ||w||: rounding to steps of s is off by up to s / 2 each way, all of it equally
 *                 likely. Two digits
 *   largest_e3m2  a float of six bits, E3M2: a sign, three bits of exponent with bias 3, two of
 *                 fraction, made as E4M3 but with a number for every code. Its largest, and
 *   least_e3m2    its smallest positive number
 *
 * POINTS: 2
 */
extern const double int4_bits, beside_30, largest_e3m2, least_e3m2;
extern const long long fp8_bytes, row_bytes;

const double int4_bits = 0;
const long long fp8_bytes = 0;
const long long row_bytes = 0;
const double beside_30 = 0;
const double largest_e3m2 = 0;
const double least_e3m2 = 0;
