/*
 * Exercise 02.9: bytes, tiles and true sentences.
 *
 * One head reads T = 16384 tokens, D = 128 for queries, keys and values, everything in BF16, and
 * without a mask. A block has a tile of M queries and asks for all keys and values once. Count 2 D
 * operations for a product of two vectors of D numbers. The machine does 200 operations in the time
 * of one byte from memory.
 *
 *   bytes_asked       bytes of keys and values that all blocks together ask for, with M = 64
 *   intensity         operations for each of these bytes, M = 64
 *   smallest_m        the smallest M, a multiple of 64, for which memory alone is fast enough
 *   matrix_bytes      bytes to write S and to read it again, if it were stored in BF16
 *
 * And three sentences; 1 if it is true, 0 if not:
 *
 *   twice_d           with twice the D and the same M, the intensity is twice as large
 *   with_dropout      when P is multiplied by dropout's mask before P V, delta = do . o still holds
 *   any_order         the online softmax gives the same bits for every order of the tiles of keys
 *
 * POINTS: 2
 */
extern const long bytes_asked, matrix_bytes;
extern const int intensity, smallest_m, twice_d, with_dropout, any_order;

const long bytes_asked = 0, matrix_bytes = 0;
const int intensity = 0, smallest_m = 0;
const int twice_d = -1, with_dropout = -1, any_order = -1;
