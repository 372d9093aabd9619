/*
 * Exercise 09.5: find the leak between prompt groups.
 *
 * To waste less on padding somebody has sorted a step's completions by length before they are cut
 * into micro-batches; prompt_of[i] says whose answer completion i is. Every number of this step
 * looks right: advantages sum to 0, their deviation is 1, the loss is about 0, and the model does
 * learn something. But it learns slowly, and changing one answer to one question changes what is
 * learned from others.
 *
 * Mend group_advantages(): A = R - the mean reward of the answers to the same prompt. Prompts are
 * numbered from 0 to prompts - 1 and need not have the same number of answers; rewards are finite.
 *
 * POINTS: 3
 */
void group_advantages(float *advantages, const float *rewards, const int *prompt_of, int count,
                      int prompts);

void group_advantages(float *advantages, const float *rewards, const int *prompt_of, int count,
                      int prompts) {
    int group = count / prompts;
    for (int first = 0; first < count; first += group) {
        float mean = 0;
        for (int i = first; i < first + group; i++) mean += rewards[i] / (float)group;
        for (int i = first; i < first + group; i++) advantages[i] = rewards[i] - mean;
    }
}
