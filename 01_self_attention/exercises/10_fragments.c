/*
 * Exercise 01.10: who holds which number?
 *
 * The 128 threads of a warpgroup hold a tile of 64 x N sums of wgmma: thread t has d[0], d[1], ...
 * Its four warps have 16 rows each, one after the other, and within a warp every 8 columns are laid
 * out as the lesson draws them for mma: columns 8 j to 8 j + 7 are d[4 j] to d[4 j + 3].
 *
 *   row_of, column_of     which number of the tile is d[i] of thread t?
 *   thread_of, index_of   and back: who holds the number in this row and column, in which d?
 *
 * POINTS: 2
 */
int row_of(int t, int i);
int column_of(int t, int i);
int thread_of(int row, int column);
int index_of(int row, int column);

int row_of(int t, int i) { return t / 2; }
int column_of(int t, int i) { return i; }
int thread_of(int row, int column) { return row * 2; }
int index_of(int row, int column) { return column; }
