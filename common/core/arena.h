/*
 * The arena: memory that is handed out piece by piece and goes back all at once.
 *
 * All activations of a step come from one arena; what an op needs for itself alone may go back
 * before (arena_mark). There is no free() of single pieces and no malloc() inside the loop; since
 * every step asks for the same sizes in the same order, it also gets the same addresses.
 */
#ifndef COMMON_ARENA_H
#define COMMON_ARENA_H

#include "common/core/gpu.h"

__BEGIN_DECLS

typedef struct ArenaBlock ArenaBlock;

typedef struct Arena {
    Gpu *gpu; /* whose memory; NULL: the host's */
    ArenaBlock *first, *current;
    size_t used, peak; /* bytes handed out since the last reset, and the most ever */
} Arena;

/* 256-byte aligned, not cleared; fatal() when memory runs out. */
void *arena_alloc(Arena *arena, size_t bytes);

/*
 * Where an arena stands, and back to there: all that was handed out since the mark is free again.
 * For buffers that one op alone needs, above all not the tape: never while recording. What a GPU
 * has queued may still use them, since what comes later is queued behind it.
 * Marks are released last to first, before the next reset.
 */
typedef struct ArenaMark {
    ArenaBlock *block;
    size_t used_in_block, used;
} ArenaMark;

ArenaMark arena_mark(const Arena *arena);
void arena_release(Arena *arena, ArenaMark mark);

void arena_reset(Arena *arena); /* all of it is free again; the memory is kept for the next step */
void arena_free(Arena *arena);

__END_DECLS
#endif
