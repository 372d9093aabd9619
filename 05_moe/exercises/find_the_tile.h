/*
 * A memory that counts: how many tiles of rows stand before an expert.
 */
#ifndef FIND_THE_TILE_H
#define FIND_THE_TILE_H

typedef struct Tiles Tiles;

/* How many tiles the experts before e have together; e in 0 .. experts, and the last is all of
 * them. */
int tiles_before(Tiles *tiles, int e);

/* Which expert tile `tile` belongs to, and which of this expert's tiles it is. */
void find_tile(int *expert, int *number, Tiles *tiles, int experts, int tile);

#endif
