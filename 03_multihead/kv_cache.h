/*
 * The KV cache: keys and values of the tokens so far, so that a new token costs one row, not T.
 *
 * A causal model never changes what it computed for an old token: token t sees tokens 0 .. t, and
 * those do not change when t + 1 arrives. Of an old token the new one needs exactly its key and
 * its value; so these are kept, per layer, and nothing else is.
 *
 * Invariant: positions 0 .. length - 1 of every sequence are valid; what lies behind is not read.
 * All sequences of the batch have the same length. The memory belongs to the cache, not to the
 * context's arena: it outlives context_reset().
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "common/core/context.h"

__BEGIN_DECLS

typedef struct KVCache {
    Tensor k, v;  /* [B, capacity, H_kv, D] on ctx's device, in ctx's dtype */
    int length;   /* tokens held */
    int capacity; /* tokens there is room for */
    Gpu *gpu;     /* whose memory it is; NULL on the CPU */
} KVCache;

/* One layer's cache, empty. -1 and a message that names the bytes when memory runs out. */
int kv_cache_init(KVCache *cache, Context *ctx, int batch, int capacity, int kv_heads, int head_dim,
                  Error *err);
void kv_cache_free(KVCache *cache); /* a cache that is all zeros, or was freed before, is fine */

/*
 * Is there room for `tokens` more? -1 and a message that says how many fit. Ask before a step: a
 * step that began cannot fail.
 */
int kv_cache_room(const KVCache *cache, int tokens, Error *err);

/*
 * k, v [B, T, H_kv, D]: keys and values of the next T tokens, for positions length .. length+T-1.
 * When they do not fit: -1 and a message, and nothing was written. A k or v of another shape, dtype
 * or device is a bug and stops the program.
 */
int kv_cache_append(Context *ctx, KVCache *cache, const Tensor *k, const Tensor *v, Error *err);

/* Forgets all tokens but the first `length`: a new prompt (0), or a wrong guess (chapter 06). */
void kv_cache_truncate(KVCache *cache, int length);

/*
 * Bytes that one token takes in all layers: 2 (key and value) x layers x H_kv x D x dtype's size.
 */
int64_t kv_cache_bytes_per_token(int layers, int kv_heads, int head_dim, DType dtype);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/*
 * New rows into a longer buffer: to[b, position + t, :] = from[b, t, :] for t < tokens.
 * from [batch, tokens, width], to [batch, capacity, width]; position + tokens <= capacity.
 */
KERNEL(kv_append, Real *to, const Real *from, int64_t batch, int64_t tokens, int64_t width,
       int64_t capacity, int64_t position);

__END_DECLS
#endif
