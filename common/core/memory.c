/*
 * Memory, or an end with a message; and one place that asks whether a device is the host.
 */
#include "common/core/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

enum {
    ALIGNMENT = 256,  /* as cudaMalloc() does; aligned_alloc() wants whole multiples */
    LARGE = 64 << 20, /* bytes for which it is worth asking whether they are there */
    HUGE_PAGE = 2 << 20
};

/* The number behind `key` in a file of lines "KEY NUMBER"; with key "" the first one. -1: none. */
static double number_in(const char *path, const char *key) {
    char line[256];
    double number = -1;
    size_t length = strlen(key);
    FILE *file = fopen(path, "r");
    while (file && number < 0 && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && sscanf(line + length, "%lf", &number) != 1) number = -1;
    if (file) fclose(file);
    return number;
}

/* Of a container, which may use less than the machine has. What files were read stays in memory as
 * long as nobody needs it, and counts as used. */
static double room_in_container(void) {
    static const char *const files[][3] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
         "/sys/fs/cgroup/memory.stat"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat"}};
    for (int i = 0; i < 2; i++) {
        double limit = number_in(files[i][0], ""), used = number_in(files[i][1], "");
        double cached = number_in(files[i][2], "inactive_file ");
        if (limit >= 0 && used >= 0) return limit - used + (cached > 0 ? cached : 0);
    }
    return -1;
}

size_t device_room(Gpu *gpu) {
    if (gpu) return gpu_memory_free(gpu);
    double room = 1024 * number_in("/proc/meminfo", "MemAvailable:");
    if (room < 0) return SIZE_MAX; /* not known: whoever asks for too much will see */
    double swap = 1024 * number_in("/proc/meminfo", "SwapFree:"), limit = room_in_container();
    if (swap > 0) room += swap;
    if (limit >= 0 && limit < room) room = limit;
    return (size_t)room;
}

/* Large pieces ask for pages of 2 MB: weights are read once a token, and with pages of 4 KB a fifth
 * of that time goes into finding the pages. */
void *device_alloc(Gpu *gpu, size_t bytes) {
    if (gpu) return gpu_alloc(gpu, bytes);
    if (bytes >= LARGE && bytes > device_room(NULL)) return NULL;
    size_t unit = bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    size_t whole = (bytes + unit - 1) / unit * unit;
    void *data = aligned_alloc(unit, whole);
    if (data && unit == HUGE_PAGE) madvise(data, whole, MADV_HUGEPAGE); /* a wish, no more */
    return data;
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
