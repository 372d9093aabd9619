/*
 * The door through which memory comes, the host's and a device's.
 *
 * On the host: what a program cannot go on without. Nobody could mend a failed allocation of a few
 * kilobytes, so must_alloc() and the others end the program with a message instead of returning
 * NULL, and their callers need no check. All of it goes back by free().
 *
 * On a device: `gpu` says which, NULL the host itself, as in Context and Arena. What is asked for
 * here is large (weights, caches, tables), and the caller knows best what its user can do about it,
 * so device_alloc() returns NULL when memory runs out. (malloc() would not: Linux promises more
 * than there is, and ends the program when it is used.) What one step needs comes from an arena
 * (arena.h), not from here.
 */
#ifndef COMMON_MEMORY_H
#define COMMON_MEMORY_H

#include "common/core/gpu.h"

__BEGIN_DECLS

/* count * size bytes of zeros; never NULL, for nothing at all either. */
void *must_alloc(size_t count, size_t size);
char *must_strdup(const char *text);

/* What lay there, in count * size bytes; what is new is not cleared. */
void *must_realloc(void *memory, size_t count, size_t size);

/* A list that doubles: an array of *capacity (updated) elements that must hold `needed`. */
void *grow(void *array, size_t *capacity, size_t needed, size_t element_size);

void *device_alloc(Gpu *gpu, size_t bytes); /* 256-byte aligned, not cleared; NULL: no room */
/* How much there is now. Of a host: what no process needs, within the limits of a container. */
size_t device_room(Gpu *gpu);
void device_free(Gpu *gpu, void *data); /* NULL is fine */

/* In stream order. Those with the host's memory return when it may be used again. */
void device_put(Gpu *gpu, void *device, const void *host, size_t bytes);
void device_get(Gpu *gpu, void *host, const void *device, size_t bytes);
void device_copy(Gpu *gpu, void *to, const void *from, size_t bytes);
void device_set(Gpu *gpu, void *device, int byte, size_t bytes); /* every byte */

__END_DECLS
#endif
