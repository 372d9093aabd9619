/*
 * Solution 03.7. A head is D * hidden numbers in a row, so the mean of heads is the mean of vectors
 * of that length. It is tempting to divide by H_kv: the mean runs over the heads of a group, and
 * there are H / H_kv of those.
 */
void pool_heads(float *narrow, const float *wide, int H, int H_kv, int D, int hidden);

void pool_heads(float *narrow, const float *wide, int H, int H_kv, int D, int hidden) {
    int group = H / H_kv, head = D * hidden;
    for (int g = 0; g < H_kv; g++)
        for (int i = 0; i < head; i++) {
            float sum = 0;
            for (int h = g * group; h < (g + 1) * group; h++) sum += wide[h * head + i];
            narrow[g * head + i] = sum / (float)group;
        }
}
