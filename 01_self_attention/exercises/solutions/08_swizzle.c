/*
 * Solution 01.8. Two rows share a line of 128 bytes, so the row's lowest bit already chooses one
 * half of the columns. What must turn from pair to pair is the place within the half, and a pair's
 * number is row / 2.
 *
 * The tempting wrong answer is piece ^ row % 4, the lesson's formula with a 4: rows 0 and 4 then
 * both have their piece 0 in column 0, two turns. (CU_TENSOR_MAP_SWIZZLE_64B writes what stands
 * below.)
 */
int place(int row, int piece);

int place(int row, int piece) { return row * 4 + (piece ^ row / 2 % 4); }
