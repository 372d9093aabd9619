/*
 * Solution 01.10. A thread has two neighbours in a row, the same two eight rows below, and then the
 * next eight columns. The tempting wrong answer lets d[2], d[3] be the next two columns: it is what
 * one would draw, but the eight columns of a row are already spread over four threads.
 *
 * Why NVIDIA has laid them out so: d[4 j .. 4 j + 3] and the next four, rounded and packed in
 * pairs, are the A of a following product. Chapter 02 multiplies its probabilities that way.
 */
int row_of(int t, int i);
int column_of(int t, int i);
int thread_of(int row, int column);
int index_of(int row, int column);

int row_of(int t, int i) { return t / 32 * 16 + i / 2 % 2 * 8 + t % 32 / 4; }
int column_of(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }
int thread_of(int row, int column) { return row / 16 * 32 + row % 8 * 4 + column % 8 / 2; }
int index_of(int row, int column) { return column / 8 * 4 + row % 16 / 8 * 2 + column % 2; }
