/*
 * Exercise 07.7: predict the softmax scale.
 *
 * A model has heads of 96 numbers without and 32 with position. It is stretched by YaRN with factor
 * 16, mscale 1 and mscale_all_dim 0.5. With m(a) = 0.1 a ln(factor) + 1, predict, to four digits
 * after the point:
 *
 *   plain_scale       the softmax scale before the context was extended
 *   yarn_scale        the scale after it
 *   attention_factor  the factor on cos and sin (what transformers calls attention_scaling)
 *   v2_scores         DeepSeek-V2 has factor 40 and 0.707 for both: by how much are its scores
 *                     multiplied? (3 digits)
 *
 * POINTS: 2
 */
extern const double plain_scale, yarn_scale, attention_factor, v2_scores;

const double plain_scale = 0;
const double yarn_scale = 0;
const double attention_factor = 0;
const double v2_scores = 0;
