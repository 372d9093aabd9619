/* By definition; and one reward moves its own siblings alone. */
#include <criterion/criterion.h>
#include <math.h>

void group_advantages(float *advantages, const float *rewards, const int *prompt_of, int count,
                      int prompts);

enum { COUNT = 12, PROMPTS = 3 };
static const int prompt_of[COUNT] = {0, 1, 2, 2, 1, 0, 1, 1, 2, 0, 1, 2}; /* 3, 5 and 4 answers */

Test(leak, siblings_only) {
    float rewards[COUNT], before[COUNT], after[COUNT];
    for (int i = 0; i < COUNT; i++) rewards[i] = (float)(i * i % 7);
    group_advantages(before, rewards, prompt_of, COUNT, PROMPTS);
    for (int i = 0; i < COUNT; i++) {
        rewards[i] += 3;
        group_advantages(after, rewards, prompt_of, COUNT, PROMPTS);
        rewards[i] -= 3;
        for (int j = 0; j < COUNT; j++) {
            int moved = fabsf(after[j] - before[j]) > 1e-4f, sibling = prompt_of[i] == prompt_of[j];
            cr_assert_eq(moved, sibling,
                         "another reward for answer %d (to prompt %d): the advantage of answer %d "
                         "(to prompt %d) %s",
                         i, prompt_of[i], j, prompt_of[j], moved ? "moves, too" : "stays");
        }
    }
}

Test(leak, by_definition) {
    float rewards[COUNT], a[COUNT];
    for (int i = 0; i < COUNT; i++) rewards[i] = (float)(i % 5);
    group_advantages(a, rewards, prompt_of, COUNT, PROMPTS);
    for (int i = 0; i < COUNT; i++) {
        float sum = 0, n = 0;
        for (int j = 0; j < COUNT; j++)
            if (prompt_of[j] == prompt_of[i]) sum += rewards[j], n++;
        cr_assert(fabsf(a[i] - (rewards[i] - sum / n)) < 1e-5f, "answer %d: %g", i, a[i]);
    }
}
