/*
 * What benchmarks stand on: repeats, the rungs that run here, filling, durations. No clock's value
 * is looked at, only counts and texts.
 */
#include "common/program/bench.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

static void count_call(Context *ctx, void *user) {
    (void)ctx;
    ++*(int *)user;
}

Test(bench, repeats_and_orders) {
    Context ctx;
    cr_assert_eq(context_init(&ctx, CPU, F32, 1, &err), 0);
    int calls = 0;
    BenchTime time = bench_time(&ctx, count_call, &calls, 0);
    cr_assert(time.repeats >= 5);
    cr_assert(calls >= time.repeats + 2, "%d calls for %d repeats", calls, time.repeats);
    check_all(time.min >= 0, time.min <= time.median);
}

static int never(Context *ctx, const void *work) {
    (void)ctx, (void)work;
    return 0;
}

/* What is for another device, too slow at this size, or says no itself is passed over. */
CPU_TEST(bench, rungs_that_run_here) {
    const BenchRung rungs[] = {
        {"other", CUDA, 100, count_call, NULL}, {"slow", CPU, 9, count_call, NULL},
        {"first", CPU, 10, count_call, NULL},   {"no", CPU, 100, count_call, never},
        {"last", CPU, 100, count_call, NULL},   {0}};
    Bench bench = {.ctx = &ctx};
    const BenchRung *rung = bench_rung(&bench, rungs, 10, NULL);
    cr_assert_eq(rung, &rungs[2]);
    rung = bench_rung(&bench, rung + 1, 10, NULL);
    cr_assert_eq(rung, &rungs[4]);
    cr_assert_null(bench_rung(&bench, rung + 1, 10, NULL));
}

Test(bench, fill_covers_every_element) {
    Context ctx;
    cr_assert_eq(context_init(&ctx, CPU, F32, 1, &err), 0);
    int64_t n = ((int64_t)1 << 20) * 2 + 33; /* longer than the period, and ragged */
    Tensor *t = tensor_new(&ctx, "t", F32, SHAPE(n));
    memset(t->data, 0xFF, tensor_bytes(t)); /* NaN */
    bench_fill(&ctx, t, 3);
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad += !(tensor_get(t, i) != 0);
    cr_assert_eq(bad, 0, "%lld elements", (long long)bad);
}

Test(bench, durations) {
    char text[32];
    cr_assert_str_eq(format_duration(text, sizeof text, 8.1234e-4), "812.3 us");
    cr_assert_str_eq(format_duration(text, sizeof text, 0.01234), "12.34 ms");
    cr_assert_str_eq(format_duration(text, sizeof text, 1.25), "1.25 s");
}

/* What --counters lets through; a row that it does not is not run, and stays out of the CSV. */
CPU_TEST(bench, counters_pick_rows) {
    Bench bench = {.ctx = &ctx, .seconds = 0};
    int calls = 0;
    bench_head("C = A B, %d x %d", 8192, 8192);
    check_all(bench_wanted(&bench, "BF16  %s", "tensor"));
    bench.counters = "*8192: BF16  @(tensor|hopper)";
    check_all(bench_wanted(&bench, "BF16  %s", "tensor"), bench_wanted(&bench, "BF16  hopper"),
              !bench_wanted(&bench, "BF16  naive"), !bench_wanted(&bench, "F32  tensor"),
              !bench_wanted(&bench, "BF16  tensors"));
    BenchTime time = bench_row(&bench, 1, 1, count_call, &calls, "BF16  naive");
    check_all(calls == 0, isnan(time.min), isnan(bench.row.of_copy));
    bench_head("another table");
    check_all(!bench_wanted(&bench, "BF16  tensor"));
}
