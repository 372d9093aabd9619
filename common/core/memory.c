/*
 * Memory, or an end with a message; and one place that asks whether a device is the host.
 */
#include "common/core/memory.h"

#include <stdlib.h>
#include <string.h>

static void *there(void *memory, size_t count, size_t size) {
    if (!memory)
        fatal("out of memory: %.1f MiB more are needed; close other programs, or choose a smaller "
              "model, batch or text",
              (double)count * (double)size / 1048576.0);
    return memory;
}

/* Never for 0 bytes: calloc() and realloc() may return NULL for them. */
void *must_alloc(size_t count, size_t size) {
    return there(calloc(count ? count : 1, size ? size : 1), count, size);
}

char *must_strdup(const char *text) { return there(strdup(text), strlen(text) + 1, 1); }

void *must_realloc(void *memory, size_t count, size_t size) {
    return there(reallocarray(memory, count ? count : 1, size ? size : 1), count, size);
}

void *grow(void *array, size_t *capacity, size_t needed, size_t element_size) {
    if (needed <= *capacity && array) return array;
    size_t wanted = *capacity ? *capacity : 16;
    while (wanted < needed) wanted *= 2;
    array = must_realloc(array, wanted, element_size);
    *capacity = wanted;
    return array;
}

/* ---- a device's ---- */

enum { ALIGNMENT = 256 }; /* as cudaMalloc() does; aligned_alloc() wants whole multiples */

void *device_alloc(Gpu *gpu, size_t bytes) {
    if (gpu) return gpu_alloc(gpu, bytes);
    return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

void device_free(Gpu *gpu, void *data) {
    if (gpu && data)
        gpu_free(gpu, data);
    else
        free(data);
}

void device_copy(Gpu *gpu, void *to, const void *from, size_t bytes) {
    if (gpu)
        gpu_copy(gpu, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void device_put(Gpu *gpu, void *device, const void *host, size_t bytes) {
    if (gpu)
        gpu_upload(gpu, device, host, bytes);
    else
        memcpy(device, host, bytes);
}

void device_get(Gpu *gpu, void *host, const void *device, size_t bytes) {
    if (gpu)
        gpu_download(gpu, host, device, bytes);
    else
        memcpy(host, device, bytes);
}

void device_set(Gpu *gpu, void *device, int byte, size_t bytes) {
    if (gpu)
        gpu_set(gpu, device, byte, bytes);
    else
        memset(device, byte, bytes);
}
