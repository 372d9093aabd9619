/*
 * Exercise 02.4: the backward pass, in plain loops.
 *
 * Write the gradients of causal attention with respect to q, k and v. For one query i of one head,
 * with incoming gradient do_i:
 *
 *     p_j   = exp(scale q_i . k_j - lse_i)            for the keys it sees: attention_keys_seen()
 *     delta = do_i . o_i
 *     ds_j  = scale p_j (do_i . v_j - delta)
 *     dq_i += sum_j ds_j k_j,   dk_j += ds_j q_i,   dv_j += p_j do_i
 *
 * dq, dk and dv may each be NULL: then it is not wanted. add_q = 0 means that dq holds rubbish and
 * is to be overwritten, 1 that it is to be added to; dk and dv likewise. Rows are found by strides:
 * row (b, t, h) of q begins at q + b * shape.q.batch + t * shape.q.token + h * shape.q.head, and dq
 * has the strides of q. Query head h reads key head h / (shape.heads / shape.kv_heads); lse is
 * [batch, heads, q_len].
 *
 * POINTS: 4
 * REPLACES: causal_reference_backward_cpu in 02_causal/causal_reference.c
 * TESTS: test_causal:causal/backward_agrees_with_reference_cpu
 * test_causal:causal/backward_adds_and_skips_cpu
 */
#include "02_causal/causal.h"

#include <math.h>

void causal_reference_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                                   const float *d_o, const float *q, const float *k, const float *v,
                                   const float *o, const float *lse, AttentionShape shape) {
    /* Your code here. */
}
