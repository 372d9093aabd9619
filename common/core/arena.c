/*
 * The arena: a list of blocks, handed out from front to back.
 *
 * A request that does not fit the current block goes to the next one that is large enough; a new
 * block is at least a quarter of all blocks before it, so there are few. Reset goes back to the
 * first block and frees none: the next step, which asks for the same sizes in the same order, finds
 * the same addresses.
 */
#include "common/core/arena.h"

#include "common/core/memory.h"

#include <stdlib.h>

enum { ALIGNMENT = 256, SMALLEST_BLOCK = 1 << 20 };

struct ArenaBlock {
    ArenaBlock *next;
    char *memory;
    size_t size, used;
};

static ArenaBlock *new_block(Arena *arena, size_t bytes) {
    size_t total = 0;
    for (ArenaBlock *b = arena->first; b; b = b->next) total += b->size;
    size_t roomy = total / 4 > SMALLEST_BLOCK ? total / 4 / ALIGNMENT * ALIGNMENT : SMALLEST_BLOCK;
    ArenaBlock *block = must_alloc(1, sizeof *block);
    /* Try for room to spare; where that is not to be had, for just enough. */
    size_t sizes[2] = {bytes > roomy ? bytes : roomy, bytes};
    for (int i = 0; i < 2 && !block->memory; i++) {
        block->size = sizes[i];
        block->memory = device_alloc(arena->gpu, sizes[i]);
    }
    if (!block->memory)
        fatal("out of %s memory: %.1f MiB more are needed beside the %.1f MiB in use; "
              "try a smaller batch, a shorter context or a smaller model",
              device_name(arena->gpu ? CUDA : CPU), bytes / 1048576.0, arena->used / 1048576.0);
    return block;
}

void *arena_alloc(Arena *arena, size_t bytes) {
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!bytes) bytes = ALIGNMENT;
    ArenaBlock **link = arena->current ? &arena->current : &arena->first;
    while (*link && (*link)->used + bytes > (*link)->size) link = &(*link)->next;
    if (!*link) *link = new_block(arena, bytes);
    ArenaBlock *block = *link;
    arena->current = block;
    void *memory = block->memory + block->used;
    block->used += bytes;
    arena->used += bytes;
    if (arena->used > arena->peak) arena->peak = arena->used;
    return memory;
}

ArenaMark arena_mark(const Arena *arena) {
    return (ArenaMark){arena->current, arena->current ? arena->current->used : 0, arena->used};
}

void arena_release(Arena *arena, ArenaMark mark) {
    CHECK(mark.used <= arena->used, "an arena released to %zu bytes, but it holds %zu", mark.used,
          arena->used);
    ArenaBlock *later = mark.block ? mark.block->next : arena->first;
    for (; later; later = later->next) later->used = 0;
    if (mark.block) mark.block->used = mark.used_in_block;
    arena->current = mark.block; /* NULL, before the first allocation: the first block is next */
    arena->used = mark.used;
}

void arena_reset(Arena *arena) {
    for (ArenaBlock *b = arena->first; b; b = b->next) b->used = 0;
    arena->current = arena->first;
    arena->used = 0;
}

void arena_free(Arena *arena) {
    for (ArenaBlock *b = arena->first, *next; b; b = next) {
        next = b->next;
        device_free(arena->gpu, b->memory);
        free(b);
    }
    arena->first = arena->current = NULL;
    arena->used = 0;
}
