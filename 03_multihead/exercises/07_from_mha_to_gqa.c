/*
 * Exercise 03.7: make a GQA model from an MHA model.
 *
 * Ainslie et al. (2023, section 2.1) turn a trained model with H key heads into one with H_kv: each
 * new key head is the mean of the key heads of its group, and likewise for the values; then the
 * model is trained a little more. Write the mean: wide [H * D, hidden] is k_proj or v_proj,
 * narrow [H_kv * D, hidden] is to be filled. The heads of a group are neighbours, as everywhere
 * here.
 *
 * POINTS: 2
 */
void pool_heads(float *narrow, const float *wide, int H, int H_kv, int D, int hidden);

void pool_heads(float *narrow, const float *wide, int H, int H_kv, int D, int hidden) {
    for (int i = 0; i < H_kv * D * hidden; i++) narrow[i] = 0;
}
