/*
 * The reference: a copy that stays, until it is replaced.
 */
#include "09_grpo/reference.h"
#include "09_grpo/tests/test_grpo.h"

#include <math.h>

/* The policy's number, the reference's, and what became of it. */
DEVICE_TEST(reference, mixes) {
    for (int row = 0; row < 3; row++) {
        float alpha = (float[]){1, 0.6f, 0}[row];
        Context ctx = test_context(device, dtype), own = test_context(device, dtype);
        Module policy, frozen;
        module_init(&policy, &ctx), module_init(&frozen, &own);
        for (int i = 0; i < policy.params.count; i++) /* others than the policy's */
            params_normal(&frozen.params, frozen.params.list[i], 0.3f);
        float *before[64];
        for (int i = 0; i < policy.params.count; i++)
            before[i] = test_weight(&frozen.params, frozen.params.list[i]);
        reference_mix(&frozen.params, &policy.params, alpha);
        for (int i = 0; i < policy.params.count; i++) {
            const Tensor *t = policy.params.list[i];
            float *p = test_weight(&policy.params, t),
                  *r = test_weight(&frozen.params, frozen.params.list[i]);
            for (int64_t j = 0; j < tensor_count(t); j++) {
                float expected = alpha * p[j] + (1 - alpha) * before[i][j];
                float most = alpha == 1 ? 0 : 1e-6f * (1 + fabsf(expected));
                cr_assert(fabsf(r[j] - expected) <= most, "%s[%lld], alpha %g: %g, not %g", t->name,
                          (long long)j, alpha, r[j], expected);
            }
        }
        context_free(&ctx), context_free(&own);
    }
}

/* A frozen copy has no masters: it holds what it computes with, the policy's numbers as its values
 * are, and their log-probabilities are the same to the last bit. */
DEVICE_TEST(reference, computes_as_the_policy_did) {
    Context ctx = test_context(device, dtype);
    Module policy, frozen;
    module_init(&policy, &ctx);
    params_init(&frozen.params, &ctx);
    decoder_register(&frozen.decoder, &frozen.params, &policy.decoder.cfg);
    check_ok(params_allocate(&frozen.params, false, &err), &err);
    reference_mix(&frozen.params, &policy.params, 1);
    int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8}, next[] = {2, 3, 4, 5, 6, 7, 8, 9};
    float logprobs[2][8];
    for (int i = 0; i < 2; i++) {
        TokenLogprobs one =
            decoder_logprobs(&ctx, i ? &frozen.decoder : &policy.decoder, NULL,
                             tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, 8)),
                             tensor_copy_in(&ctx, "next", I32, next, SHAPE(1, 8)), 1, NULL, NULL);
        tensor_download(&ctx, logprobs[i], one.logprobs);
    }
    cr_assert(!memcmp(logprobs[0], logprobs[1], sizeof logprobs[0]));
}
