/* Against the chapter's reference, and the number of pages that were read. */
#include "04_mla/exercises/read_pages.h"
#include "04_mla/mla_decode.h"

#include "common/program/testing.h"

#include <math.h>

enum { HEADS = 5, RANK = 12, ROPE = 4, WIDTH = RANK + ROPE, MOST_PAGES = 4 };

struct Memory {
    float pages[MOST_PAGES][PAGE_TOKENS * WIDTH];
    float shown[2][PAGE_TOKENS * WIDTH]; /* only the last page that was read can still be seen */
    int reads;
};

const float *read_page(Memory *memory, int i) {
    cr_assert(i >= 0 && i < MOST_PAGES, "there is no page %d", i);
    float *now = memory->shown[memory->reads % 2], *before = memory->shown[(memory->reads + 1) % 2];
    memory->reads++;
    for (int j = 0; j < PAGE_TOKENS * WIDTH; j++) {
        now[j] = memory->pages[i][j];
        before[j] = NAN;
    }
    return now;
}

static void compare(int length) {
    static Memory memory;
    float q[HEADS * WIDTH], o[HEADS * RANK], expected[HEADS * RANK];
    /* Scores of some 10 that grow along the text: a maximum that is not rescaled shows. */
    for (int i = 0; i < HEADS * WIDTH; i++) q[i] = 3 * rng_normal(1, 1, (uint64_t)i);
    for (int i = 0; i < MOST_PAGES * PAGE_TOKENS * WIDTH; i++)
        memory.pages[i / (PAGE_TOKENS * WIDTH)][i % (PAGE_TOKENS * WIDTH)] =
            (i / WIDTH) < length ? rng_normal(1, 2, (uint64_t)i) * (1 + (float)i / 4096) : NAN;
    for (int i = 0; i < HEADS * RANK; i++) o[i] = NAN;
    const int32_t table[MOST_PAGES] = {0, 1, 2, 3}, lengths[] = {length};
    MlaDecodeShape shape = {.batch = 1,
                            .q_len = 1,
                            .heads = HEADS,
                            .kv_lora_rank = RANK,
                            .rope_dim = ROPE,
                            .pages = MOST_PAGES,
                            .max_pages = MOST_PAGES,
                            .max_length = length,
                            .scale = 0.25f};
    mla_decode_reference_cpu(expected, NULL, q, memory.pages[0], table, lengths, shape);
    memory.reads = 0;
    decode_pages(o, q, &memory, length, HEADS, RANK, ROPE, 0.25f);
    /* F32: scores of up to 30 are rounded to 2e-6, which e^score passes on. */
    check_close("o", o, expected, HEADS * RANK, 2e-5);
    int pages = (length + PAGE_TOKENS - 1) / PAGE_TOKENS;
    cr_assert(memory.reads <= pages, "%d pages were read; %d would do", memory.reads, pages);
}

Test(a_page_at_a_time, one_token) { compare(1); }
Test(a_page_at_a_time, whole_pages) { compare(128); }
Test(a_page_at_a_time, ragged) {
    compare(63);
    compare(65);
    compare(251);
}
