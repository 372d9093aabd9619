/* Checks exercise 01.10 against the table that NVIDIA's manual draws, written out warp by warp. */
#include <criterion/criterion.h>

int row_of(int t, int i);
int column_of(int t, int i);
int thread_of(int row, int column);
int index_of(int row, int column);

enum { ROWS = 64, COLUMNS = 256 };

static struct { int thread, index; } holder[ROWS][COLUMNS];

static void fill_table(void) {
    for (int warp = 0; warp < 4; warp++)
        for (int lane = 0; lane < 32; lane++)
            for (int j = 0; j < COLUMNS / 8; j++)
                for (int h = 0; h < 2; h++)
                    for (int e = 0; e < 2; e++) {
                        int row = 16 * warp + 8 * h + lane / 4, column = 8 * j + 2 * (lane % 4) + e;
                        holder[row][column].thread = 32 * warp + lane;
                        holder[row][column].index = 4 * j + 2 * h + e;
                    }
}

Test(fragments, of_a_thread) {
    fill_table();
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) {
            int t = holder[r][c].thread, i = holder[r][c].index;
            cr_assert(row_of(t, i) == r, "d[%d] of thread %d is not in row %d", i, t, row_of(t, i));
            cr_assert(column_of(t, i) == c, "d[%d] of thread %d is not in column %d", i, t,
                      column_of(t, i));
        }
}

Test(fragments, of_a_number) {
    fill_table();
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) {
            cr_assert(thread_of(r, c) == holder[r][c].thread,
                      "row %d, column %d is not thread %d's", r, c, thread_of(r, c));
            cr_assert(index_of(r, c) == holder[r][c].index, "row %d, column %d is not d[%d]", r, c,
                      index_of(r, c));
        }
}
