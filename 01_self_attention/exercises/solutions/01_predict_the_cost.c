/*
 * Solution 01.1. The weights of one head take four times the memory of x already, and they grow
 * with T T while x grows with T: at T = 32768 it is 64 times, for each head. That is what chapter
 * 02 is about.
 */
extern const long bytes_x, bytes_weights, projections, products, t_equal;

const long bytes_x = 4L * 2048 * 512;
const long bytes_weights = 4L * 2048 * 2048;
const long projections = 3L * 2048 * 512 * 64;
const long products = 2L * 2048 * 2048 * 64;
const long t_equal = 3 * 512 / 2; /* whatever D is */
