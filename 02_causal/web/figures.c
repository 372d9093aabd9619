/*
 * Figures of chapter 02 for the book: the online softmax tile by tile on the reader's scores, the
 * tiles that the mask leaves, and a row of tiles against the whole matrix on the page's clock.
 */
#include "02_causal/causal.h"
#include "common/program/web.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_KEYS = 24, MAX_T = 64 };

/*
 * exps (the scores are their logarithms, as on paper), values, tile -> per tile: m, l, o and the
 * factor `rescale`; shares: each key's part in what has been summed after the tile
 * [tiles, keys]; exact: attention by the definition.
 */
WEB(online) {
    float e[MAX_KEYS], v[MAX_KEYS], both[MAX_KEYS][MAX_KEYS + 1] = {{0}}, s[MAX_KEYS];
    int n = web_list(e, MAX_KEYS, "exps", 1e-6, 1e6), tile = web_int("tile", 1, MAX_KEYS),
        tiles = 0;
    int values = web_list(v, MAX_KEYS, "values", -1e3, 1e3);
    if (values < n) n = values;
    float m[MAX_KEYS], l[MAX_KEYS], o[MAX_KEYS], rescale[MAX_KEYS], shares[MAX_KEYS * MAX_KEYS];
    double top = 0, sum = 0;
    for (int j = 0; j < n;
         j++) { /* a value beside one unit for each key: o then keeps them apart */
        both[j][0] = v[j], both[j][j + 1] = 1;
        top += (double)e[j] * v[j], sum += e[j];
    }
    OnlineSoftmax state = {-INFINITY, 0};
    float out[MAX_KEYS + 1] = {0};
    for (int first = 0; first < n; first += tile, tiles++) {
        int keys = n - first < tile ? n - first : tile;
        float before = state.m;
        for (int j = 0; j < keys; j++) s[j] = logf(e[first + j]);
        online_softmax(&state, out, s, keys, both[first], MAX_KEYS + 1, MAX_KEYS + 1);
        m[tiles] = state.m, l[tiles] = state.l, o[tiles] = out[0];
        rescale[tiles] = expf(before - state.m);
        for (int j = 0; j < n; j++) shares[tiles * n + j] = out[j + 1];
    }
    web_value("keys", n);
    web_floats("m", m, tiles);
    web_floats("l", l, tiles);
    web_floats("o", o, tiles);
    web_floats("rescale", rescale, tiles);
    web_floats("shares", shares, tiles * n);
    web_value("exact", n ? top / sum : NAN);
}

/* T, tile -> visited [tiles, tiles]: 0 never, 1 whole, 2 masked in part; visible and computed
 * scores. */
WEB(mask) {
    int T = web_int("T", 1, 4096), tile = web_int("tile", 1, 256), n = (T + tile - 1) / tile;
    if (n > MAX_T) n = MAX_T, tile = (T + n - 1) / n, n = (T + tile - 1) / tile;
    AttentionShape shape = attention_shape(1, 1, 1, T, T, 64, 64, 1);
    int32_t visited[MAX_T * MAX_T];
    double visible = 0, computed = 0;
    for (int i = 0; i < T; i++) visible += attention_keys_seen(&shape, i);
    for (int i = 0; i < n; i++) {
        int last = i * tile + tile < T ? i * tile + tile : T;
        int most = attention_keys_seen(&shape, last - 1),
            least = attention_keys_seen(&shape, i * tile);
        for (int j = 0; j < n; j++) {
            int end = j * tile + tile < T ? j * tile + tile : T;
            visited[i * n + j] = j * tile >= most ? 0 : end <= least ? 1 : 2;
        }
        computed +=
            (double)(last - i * tile) * most; /* a tile of keys ends where the last row's do */
    }
    web_value("tiles", n);
    web_value("tile", tile);
    web_ints("visited", visited, n * n);
    web_value("visible", visible);
    web_value("computed", computed);
}

static float *normal(uint64_t stream, int64_t count) {
    float *x = must_alloc((size_t)count, sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = rng_normal(1, stream, (uint64_t)i);
    return x;
}

/* step: T = 64, 128, ... -> tiles_ms, matrix_ms: the fastest of a few; their largest difference;
 * bytes of the matrix that one of them keeps, and of the other's lse. */
WEB(race) {
    enum { HEADS = 4, D = 32, STEPS = 6 };
    int step = web_int("step", 0, STEPS - 1), T = 64 << step;
    AttentionShape shape = attention_shape(1, HEADS, HEADS, T, T, D, D, 1);
    int64_t count = (int64_t)T * HEADS * D;
    float *q = normal(1, count), *k = normal(2, count), *v = normal(3, count);
    float *o = normal(4, count), *same = normal(5, count), *lse = normal(6, (int64_t)HEADS * T);
    float *p = must_alloc((size_t)HEADS * (size_t)T * (size_t)T, sizeof *p);
    double best[2] = {INFINITY, INFINITY}, difference = 0;
    int times = step < 3 ? 512 >> 2 * step : 1; /* a page's clock has ticks of 0.1 ms */
    causal_forward_cpu(o, lse, q, k, v, shape); /* the page's compiler wakes up */
    causal_materialised_cpu(same, p, q, k, v, shape);
    for (int i = 0; i < 3; i++) {
        double started = web_seconds();
        for (int j = 0; j < times; j++) causal_forward_cpu(o, lse, q, k, v, shape);
        double between = web_seconds();
        for (int j = 0; j < times; j++) causal_materialised_cpu(same, p, q, k, v, shape);
        best[0] = fmin(best[0], (between - started) / times);
        best[1] = fmin(best[1], (web_seconds() - between) / times);
        if (best[0] > 0.02) break;
    }
    for (int64_t i = 0; i < count; i++) difference = fmax(difference, fabs((double)o[i] - same[i]));
    web_value("T", T);
    web_value("tiles_ms", 1e3 * best[0]);
    web_value("matrix_ms", 1e3 * best[1]);
    web_value("matrix_bytes", 4.0 * HEADS * T * T);
    web_value("lse_bytes", 4.0 * HEADS * T);
    web_value("close", difference < 1e-5);
    web_value("progress", (step + 1.0) / STEPS);
    web_value("done", step + 1 == STEPS);
    free(q), free(k), free(v), free(o), free(same), free(lse), free(p);
}
