/*
 * Exercise 07.7: predict the softmax scale.
 *
 * DeepSeek-V3: heads of 128 numbers without and 64 with position; YaRN with factor 40, original
 * context 4096, mscale = mscale_all_dim = 1. With m(s) = 0.1 s ln(factor) + 1, predict
 *
 *   plain_scale       the softmax scale before the context was extended
 *   yarn_scale        the scale after it (both to four digits behind the point)
 *   attention_factor  the factor on cos and sin (what transformers calls attention_scaling)
 *   v2_paper_t        the V2 paper writes sqrt(t) = 0.0707 ln s + 1, s = 40, and V2's config.json
 *                     has mscale_all_dim 0.707: by how much are its scores multiplied? (3 digits)
 *
 * POINTS: 2
 */
extern const double plain_scale, yarn_scale, attention_factor, v2_paper_t;

const double plain_scale = 0.0722; /* 1 / sqrt(128 + 64) */
const double yarn_scale = 0.1352;  /* 0.07217 x 1.36889^2 */
const double attention_factor = 1; /* m(1) / m(1): cos and sin stay as they are */
const double v2_paper_t = 1.590;   /* (0.0707 x 3.689 + 1)^2 = 1.2608^2 = 1.5896 */
