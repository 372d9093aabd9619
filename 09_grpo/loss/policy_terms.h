/*
 * One token's part in the policy loss: a function for each kind of objective, for both devices.
 *
 *     r = pi(token) / pi_old(token)     the ratio;  A: the advantage of the token's completion
 *
 * A term has a value and two derivatives, because the policy's log-probability enters in two ways:
 * directly, and through r, which may be the token's own or one for the whole sequence (GSPO):
 *
 *     direct  = d value / d logp        with r held fixed
 *     through = d value / d log r
 *
 * At r = 1, where every rollout begins, all of them have the gradient of REINFORCE, -A: they differ
 * in what they do once the policy has moved. Formulas: TRL 1.16; the papers stand at each function.
 */
#ifndef POLICY_TERMS_H
#define POLICY_TERMS_H

#include <math.h>
#include <stdbool.h>

#ifdef __CUDACC__
#define POLICY_FUNCTION __host__ __device__ __forceinline__ static
#else
#define POLICY_FUNCTION static inline
#endif

typedef struct PolicyTerm {
    float value, direct, through;
} PolicyTerm;

/* e^x, its argument kept within +-20: a ratio beyond that is no number to learn from, and infinity
 * times an advantage of 0 would be NaN. */
POLICY_FUNCTION float policy_ratio(float log_ratio) {
    return expf(log_ratio > 20 ? 20.0f : log_ratio < -20 ? -20.0f : log_ratio);
}

/*
 * -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)      (PPO, Schulman et al. 2017, eq. 7)
 * The smaller of the two: where r has already gone further than the clip in the direction that A
 * asks for, there is nothing more to gain, and no gradient. Where it has gone the wrong way, there
 * is. delta (0: none) bounds r in the first product too, which for A < 0 nothing else does
 * (INTELLECT-2). It is above 1 + epsilon_high, so the clipped product is smaller only where r is
 * beyond the clip.
 */
POLICY_FUNCTION PolicyTerm policy_clipped(float r, float a, float epsilon, float epsilon_high,
                                          float delta) {
    float low = 1 - epsilon, high = 1 + epsilon_high;
    bool capped = delta > 0 && r > delta;
    float free_part = (capped ? delta : r) * a;
    float clipped = (r < low ? low : r > high ? high : r) * a;
    if (clipped < free_part) return (PolicyTerm){-clipped, 0, 0};
    return (PolicyTerm){-free_part, 0, capped ? 0 : -free_part};
}

/* -min(r, cap) A logp, the factor held fixed: no token is without a gradient, but none counts more
 * than `cap` times (CISPO; MiniMax-M1, 2025, eq. 4-5). */
POLICY_FUNCTION PolicyTerm policy_cispo(float r, float a, float logp, float cap) {
    float weight = r > cap ? cap : r;
    return (PolicyTerm){-weight * a * logp, -weight * a, 0};
}

/* -A sigmoid(tau (r - 1)) 4 / tau: a clip without an edge; tau says how soon it closes, its own for
 * each sign of A (SAPO; Gao et al. 2025). */
POLICY_FUNCTION PolicyTerm policy_sapo(float r, float a, float tau) {
    float s = 1 / (1 + expf(-tau * (r - 1)));
    return (PolicyTerm){-a * s * 4 / tau, 0, -a * 4 * s * (1 - s) * r};
}

/* -A logp: make likely what was good (Williams 1992). Right for the policy that drew the token. */
POLICY_FUNCTION PolicyTerm policy_reinforce(float a, float logp) {
    return (PolicyTerm){-a * logp, -a, 0};
}

/*
 * The distance from a reference policy, estimated from the drawn token alone (Schulman 2020, "k3"):
 *     k3 = e^d - d - 1 >= 0,   d = logp_ref - logp
 * Its mean over tokens drawn from pi is KL(pi | ref). They were drawn from pi_old, so DeepSeek-V3.2
 * (3.1) multiplies by r, which makes its mean right, and its gradient too.
 */
POLICY_FUNCTION PolicyTerm policy_kl(float d, float r, bool unbiased) {
    float e = policy_ratio(d), k3 = e - d - 1;
    return unbiased ? (PolicyTerm){r * k3, r * (1 - e), r * k3} : (PolicyTerm){k3, 1 - e, 0};
}

#endif
