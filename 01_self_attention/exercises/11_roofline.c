/*
 * Exercise 01.11: under the roof.
 *
 * A machine does 800 TFLOP/s in BF16, and its memory gives 4 TB/s. A kernel multiplies two large
 * matrices in BF16, a block makes a tile of C at a time, and there are no caches: each block
 * fetches its own rows of A and columns of B. Answer with a pencil.
 *
 *   balance           operations that the machine does in the time of one byte
 *   of_192_by_128     operations for each byte that a block with a tile of 192 x 128 asks for
 *   reached           TFLOP/s that such a kernel can reach at most
 *   smallest_square   the smallest side, a multiple of 64, of a square tile not bound by memory
 *   twice_the_units   'a', 'b' or 'c'. The next machine has the same memory and twice the tensor
 *                     cores. The kernel with tiles of 192 x 128 becomes
 *                         a) twice as fast   b) somewhat faster   c) no faster
 *   softmax           the same three answers, for the lesson's softmax on that machine
 *
 * POINTS: 2
 */
extern const double balance, of_192_by_128, reached;
extern const int smallest_square, twice_the_units, softmax;

const double balance = 0, of_192_by_128 = 0, reached = 0;
const int smallest_square = 0, twice_the_units = '?', softmax = '?';
