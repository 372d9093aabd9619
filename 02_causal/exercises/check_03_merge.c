/* Checks exercise 02.3: halves, thirds and nothings, merged, against all keys at once. */
#include "02_causal/causal.h"

#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

void merge(OnlineSoftmax *a, float *o_a, const OnlineSoftmax *b, const float *o_b, int v_dim);

enum { KEYS = 60, DIM = 3 };

typedef struct Worker {
    OnlineSoftmax state;
    float o[DIM];
} Worker;

/* What a worker has after keys first .. end - 1; scores spread far enough to overflow without m. */
static Worker worker(int first, int end) {
    Worker w = {{-INFINITY, 0}, {0}};
    float s[KEYS], v[KEYS * DIM];
    for (int j = 0; j < KEYS; j++) s[j] = 60 * rng_normal(3, 0, (uint64_t)j);
    for (int j = 0; j < KEYS * DIM; j++) v[j] = rng_normal(3, 1, (uint64_t)j);
    if (first < end)
        online_softmax(&w.state, w.o, s + first, end - first, v + first * DIM, DIM, DIM);
    return w;
}

static void same(const Worker *got, const Worker *want) {
    cr_assert(got->state.m == want->state.m, "m is %g, not %g", got->state.m, want->state.m);
    cr_assert(fabsf(got->state.l - want->state.l) <= 1e-5f * want->state.l, "l is %g, not %g",
              got->state.l, want->state.l);
    for (int c = 0; c < DIM; c++)
        cr_assert(fabsf(got->o[c] - want->o[c]) <= 1e-5f * want->state.l, "o[%d] is %g, not %g", c,
                  got->o[c], want->o[c]);
}

Test(merge, two_halves_in_either_order) {
    for (int cut = 1; cut < KEYS; cut++) {
        Worker all = worker(0, KEYS), a = worker(0, cut), b = worker(cut, KEYS), b2 = b;
        merge(&b2.state, b2.o, &a.state, a.o, DIM);
        merge(&a.state, a.o, &b.state, b.o, DIM);
        same(&a, &all);
        same(&b2, &all);
    }
}

Test(merge, three_parts) {
    Worker all = worker(0, KEYS), a = worker(0, 7), b = worker(7, 40), c = worker(40, KEYS);
    merge(&b.state, b.o, &c.state, c.o, DIM);
    merge(&a.state, a.o, &b.state, b.o, DIM);
    same(&a, &all);
}

Test(merge, workers_who_saw_nothing) {
    Worker all = worker(0, KEYS), a = worker(0, KEYS), none = worker(0, 0), none2 = worker(0, 0);
    merge(&a.state, a.o, &none.state, none.o, DIM);
    same(&a, &all);
    merge(&none.state, none.o, &all.state, all.o, DIM);
    same(&none, &all);
    Worker empty = worker(0, 0);
    merge(&none2.state, none2.o, &empty.state, empty.o, DIM);
    cr_assert(none2.state.m == -INFINITY && none2.state.l == 0 && none2.o[0] == 0,
              "two empty workers made m %g, l %g, o %g", none2.state.m, none2.state.l, none2.o[0]);
}
