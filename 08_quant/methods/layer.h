/*
 * A decoder block as quantisation sees it: its linear layers, which of them read the same input,
 * and into what a scale of that input's channels could go.
 *
 *     input                          read by                           made by
 *     input_layernorm(x)             q_a (or q), kv_a | q, k, v        the norm
 *     q_a_layernorm, kv_a_layernorm  q_b | kv_b                        the norm
 *     attention's values             o                                 rows of kv_b, or v
 *     post_attention_layernorm(x)    gate, up; with experts: theirs,   the norm
 *                                    the shared ones', the router
 *     silu(gate) * up                down                              rows of up
 *
 * Norms, routers, tables and the head are no linear layers here: they stay as they are.
 */
#ifndef QUANT_LAYER_H
#define QUANT_LAYER_H

#include "05_moe/decoder/block.h"

__BEGIN_DECLS

/* What some linear layers read. */
typedef struct LayerInput {
    Tensor *linears[3]; /* [out, in]; experts': [E, out, in], each with rows of its own */
    int count;
    int experts;     /* 1: not experts' */
    bool makes_keys; /* or queries: AWQ does not clip such layers */
    const char *name;
} LayerInput;

/*
 * Where X / s can be had for nothing. Either `norm` makes X, and its weight is divided by s; then
 * `others` read X, too, and are multiplied by it. Or X's channel j is proportional to row
 * j / width * stride + offset + j % width of `rows`, which is divided by s[j] (and its bias); of
 * experts, each expert's by an s of its own.
 */
typedef struct LayerFold {
    int first, count; /* the inputs that are X: experts' and the others' are the same channels */
    Tensor *norm, *others[2];
    Tensor *rows, *bias;
    int64_t width, stride, offset;
} LayerFold;

enum { LAYER_INPUTS = 8 };

typedef struct QuantLayer {
    LayerInput inputs[LAYER_INPUTS];
    int input_count;
    LayerFold folds[LAYER_INPUTS];
    int fold_count;
} QuantLayer;

/* selected: something else reads the attention's inputs, too (04_mla/selection.h): its norms are
 * nothing to fold into. */
QuantLayer quant_layer(const Block *w, const BlockConfig *cfg, bool selected);

/* X becomes X / s, s [in], and all that reads it is multiplied by s: the block computes what it
 * did. expert: whose X it is, where `rows` are experts'; else -1. Plain F32 weights on the CPU. */
void layer_fold(const QuantLayer *layer, const LayerFold *fold, int expert, const float *s);

/* The places in a block that point to its linear layers; returns how many. */
enum { BLOCK_LINEARS = 19 };
int block_linears(Block *w, Tensor **places[BLOCK_LINEARS]);

__END_DECLS
#endif
