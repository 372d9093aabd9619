/*
 * Exercise 01.8: a swizzle for short rows.
 *
 * Shared memory has 32 banks of 4 bytes, so 128 bytes in a line; eight threads that read a piece of
 * 16 bytes each take one turn when their pieces lie in eight different columns of pieces (address
 * / 16 % 8), and a turn more for each that shares a column.
 *
 * A tile has 64 rows of only 32 numbers in BF16: 64 bytes, four pieces. place(row, piece) says
 * where a piece lies, in pieces from the tile's beginning. As it stands rows follow each other, and
 * eight threads that read piece 0 of rows 0 to 7 need four turns. Find a place for each piece so
 * that
 *
 *     - the tile has room for all 256, each in a place of its own
 *     - a piece stays in its own row's 64 bytes
 *     - eight rows that begin at a multiple of 8, the same piece of each: one turn
 *     - two rows that begin at a multiple of 2, all eight pieces: one turn
 *
 * POINTS: 2
 */
int place(int row, int piece);

int place(int row, int piece) { return row * 4 + piece; }
