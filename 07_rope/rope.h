/*
 * Rotary position embeddings: a token's position turns its queries and keys, and only the distance
 * of two tokens is left in their product.
 *
 * Each head's numbers are taken in pairs; pair i of a token at position p is a point in the plane,
 * turned by the angle p f_i (Su et al. 2021, eq. 14-16):
 *
 *     f_i = theta^(-2i / dim),  i = 0 .. dim/2 - 1
 *     y_a = x_a cos(p f_i) - x_b sin(p f_i),   y_b = x_a sin(p f_i) + x_b cos(p f_i)
 *     (R_p q) . (R_s k) = q . R_{s - p} k                      only the distance is left
 *
 * Which two numbers are a pair is a matter of layout: neighbours (2i, 2i + 1) in DeepSeek, halves
 * (i, i + dim/2) in Llama and in V3.2's indexer. rope_layout_rows() converts weights between them.
 *
 * Longer contexts than the model was trained for, by `factor`, change the frequencies (rope_type):
 *     linear   f_i / factor: positions are squeezed      (position interpolation, Chen et al. 2023)
 *     ntk      theta grows to theta factor^(dim / (dim - 2)): fast pairs stay, slow ones stretch
 *     yarn     a ramp from one to the other, and a sharper softmax     (Peng et al. 2023)
 *
 * cos and sin stand in a table [max_position, dim/2], made once in double precision and kept in
 * F32. A Rope is a Position (chapter 04), so it can be given to mla_forward().
 */
#ifndef ROPE_H
#define ROPE_H

#include "04_mla/position.h"

__BEGIN_DECLS

typedef enum RopeLayout { ROPE_INTERLEAVED, ROPE_HALVES } RopeLayout;
typedef enum RopeType { ROPE_DEFAULT, ROPE_LINEAR, ROPE_NTK, ROPE_YARN } RopeType;

/* The names of Hugging Face's config.json, rope_parameters (or rope_scaling) among them. */
typedef struct RopeConfig {
    int dim;                     /* numbers of a head that are rotated: even */
    int max_position_embeddings; /* positions in the table */
    double rope_theta;           /* 10000 */
    RopeLayout layout;
    RopeType rope_type;
    double factor;                        /* of the context's growth; >= 1 */
    int original_max_position_embeddings; /* yarn: the context it was trained for */
    double beta_fast, beta_slow;          /* yarn: 32 and 1 when 0 */
    double mscale;                        /* yarn: 0 when absent: see rope_attention_factor */
    double mscale_all_dim;                /* all but default: 0 when absent: rope_softmax_factor */
    double attention_factor;              /* yarn: 0 when absent: see rope_attention_factor */
} RopeConfig;

/* dim numbers a head, theta 10000, default type, interleaved. */
RopeConfig rope_config(int dim, int max_position_embeddings);

/* 0, or -1 and a message that names the setting, its value and what it may be. */
int rope_check(const RopeConfig *cfg, Error *err);

typedef struct Rope {
    Position position; /* first: a Rope * is a Position * */
    RopeConfig cfg;
    float *cos, *sin; /* [max_position_embeddings, dim / 2], on the device, attention factor in */
    Gpu *gpu;         /* whose memory it is; NULL on the CPU */
} Rope;

/* -1 and a message when the config makes no sense or memory runs out. */
int rope_init(Rope *rope, Context *ctx, const RopeConfig *cfg, Error *err);
void rope_free(Rope *rope); /* zeros, or freed before: fine */

/*
 * Rotates, in place, in each head of q [B, T, H, D_q] and k [B, T, H_k, D_k], the `dim` numbers
 * from `q_offset` and `k_offset` on, by positions I32 [B, T] on ctx's device (positions_from, or a
 * list of one's own). k may be NULL. On the tape: see position.h on what "in place" asks of the
 * operation before; rope and positions must be there until the tape has run. A position outside the
 * table stops the program on the CPU, and makes the token NaN on CUDA: ask position_room before.
 */
void rope_rotate(Context *ctx, const Rope *rope, Tensor *q, int q_offset, Tensor *k, int k_offset,
                 const Tensor *positions);

/* ---- the formulas, in double precision ---- */

void rope_frequencies(const RopeConfig *cfg, double *f); /* f [dim / 2], after the rope_type */

/* YaRN's ramp between the pairs low and high (the paper's alpha and beta as pairs). */
void rope_yarn_range(const RopeConfig *cfg, double *low, double *high);

/* Factor on cos and sin, as transformers defines it: attention_factor if given, else
 * m(mscale) / m(mscale_all_dim) if both are given, else m(1); m(s) = 0.1 s ln(factor) + 1. 1 for
 * other types. */
double rope_attention_factor(const RopeConfig *cfg);

/* Factor on the softmax scale: m(mscale_all_dim)^2, 1 without it or for the default type. For
 * linear and ntk as for yarn: DeepSeek's models in transformers ask for no more than another type
 * than default (yarn_apply_mscale, despite its name). */
double rope_softmax_factor(const RopeConfig *cfg);

/*
 * Weights made for one layout, for use in the other: of each head's `head_dim` rows the last `dim`
 * change places; w [heads * head_dim, in]. A model whose q and k weights both went through this
 * computes the same scores.
 */
void rope_layout_rows(float *w, int64_t heads, int64_t head_dim, int64_t dim, int64_t in,
                      RopeLayout from, RopeLayout to);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* One of the two tensors that a pass rotates: data [tokens, heads, head_dim], from `offset` on. */
typedef struct RopePart {
    void *data; /* NULL: nothing to do */
    int heads, head_dim, offset;
} RopePart;

/* inverse: turns back (backward). positions [tokens]; cos, sin [max_position, dim / 2]. */
KERNEL(rope_rotate, RopePart q, RopePart k, const float *cos, const float *sin,
       const int32_t *positions, int64_t tokens, int dim, int max_position, RopeLayout layout,
       int inverse);
/*
 * CUDA's ladder, of which `heads` is in use where sizes and addresses allow it, else `table`.
 * sincos: no table, every thread makes the cos and sin of its pair, for the plain
 * rotation with base theta. table: they are read. vector: 16 bytes a thread, q and k in one launch.
 * heads: cos and sin stay in registers for several heads of a token.
 */
void rope_sincos_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, double theta,
                      const int32_t *positions, int64_t tokens, int dim, int max_position,
                      RopeLayout layout, int inverse);
__typeof__(rope_rotate_cuda) rope_table_cuda, rope_vector_cuda, rope_heads_cuda;
/* Can vector and heads do it? Every 16-byte word must begin at a multiple of 16. */
int rope_vector_supports(DType dtype, RopePart q, RopePart k, const float *cos, const float *sin,
                         int dim, RopeLayout layout);

__END_DECLS
#endif
