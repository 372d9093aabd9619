/*
 * Solution 09.5: neighbours were taken for siblings. After sorting they are answers to different
 * questions, so the baseline of a hard question is that of some easy one: right answers to hard
 * questions are praised too little, and wrong ones to easy questions too much. Averages hide it:
 * any partition has advantages that sum to 0. The test that finds such a leak changes one reward
 * and looks who else moves. (Tempting: to sort back before the advantages are made, which is right
 * here and breaks again when groups have different sizes.)
 */
#include <stdlib.h>

void group_advantages(float *advantages, const float *rewards, const int *prompt_of, int count,
                      int prompts);

void group_advantages(float *advantages, const float *rewards, const int *prompt_of, int count,
                      int prompts) {
    float *sum = calloc((size_t)prompts, sizeof *sum);
    int *answers = calloc((size_t)prompts, sizeof *answers);
    if (!sum || !answers) abort();
    for (int i = 0; i < count; i++) sum[prompt_of[i]] += rewards[i], answers[prompt_of[i]]++;
    for (int i = 0; i < count; i++)
        advantages[i] = rewards[i] - sum[prompt_of[i]] / (float)answers[prompt_of[i]];
    free(sum);
    free(answers);
}
