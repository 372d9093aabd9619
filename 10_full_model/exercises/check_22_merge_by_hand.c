/* Exercise 10.22's check: the project's own tokenizer on the same words. */
#include "common/text/tokenizer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

extern const char *const merges[4];
extern const int tokens;

static Tokenizer *learned(void) {
    Error err = {0};
    const char text[] = " ban ban ban ban banana banana can can can";
    Tokenizer *t = tokenizer_train(text, sizeof text - 1, 256 + 4 + 1, NULL, NULL, &err);
    cr_assert(t, "%s", err.text);
    return t;
}

Test(merge_by_hand, merges) {
    Tokenizer *t = learned();
    for (int i = 0; i < 4; i++) {
        size_t bytes;
        const char *text = tokenizer_token(t, 256 + i, &bytes);
        cr_assert(bytes == strlen(merges[i]) && !memcmp(text, merges[i], bytes),
                  "merge %d is not \"%s\"", i + 1, merges[i]);
    }
}

Test(merge_by_hand, a_new_word) {
    size_t count;
    tokenizer_encode(learned(), " bananas", 8, &count);
    cr_assert((size_t)tokens == count, "\" bananas\" is not %d tokens", tokens);
}
