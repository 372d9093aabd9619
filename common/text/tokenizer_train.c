/*
 * Learning the merges.
 *
 *     repeat:  the pair of adjacent tokens that occurs most often becomes one token
 *
 * Recounting the text after every merge would take hours. Three things make it seconds:
 *
 * 1. A text has few different words (of the Bible's 820,000, a few percent differ). Each is kept
 *    once, with how often it occurs, and a pair counts that often.
 * 2. A merge changes only the words that contain its pair. Every pair has a list of words where it
 *    has been; there the counts are corrected, one replaced pair at a time.
 * 3. The largest count comes from a heap whose entries may be out of date. A count, once a merge is
 *    over, only falls (new pairs contain the new token), so an entry is never too small: one that
 *    comes up too large is put back with the true count.
 *
 * Counts are of adjacent positions: in "aaa" the pair (a, a) occurs twice.
 */
#include "common/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct Word {
    size_t first;   /* of its tokens in Trainer.tokens */
    int32_t length; /* tokens; falls with every merge */
    int64_t count;  /* in the text */
} Word;

typedef struct Pair {
    int32_t left, right;
    int64_t count;
    int32_t *words; /* where it occurs, or has occurred; rising */
    size_t word_count, word_capacity;
} Pair;

typedef struct Trainer {
    Tokenizer *tokenizer;
    StringMap seen; /* bytes of a word -> its number */
    Word *words;
    size_t word_count, word_capacity;
    int32_t *tokens;
    size_t token_count, token_capacity;
    PairMap numbers; /* pair -> its number */
    Pair *pairs;
    size_t pair_count, pair_capacity;
    Heap heap; /* key: ~count, so that the largest is on top; value: left, right */
} Trainer;

/* ---- words ---- */

static void count_word(void *user, const char *bytes, size_t length) {
    Trainer *trainer = user;
    int32_t number = string_map_find(&trainer->seen, bytes, length);
    if (number >= 0) {
        trainer->words[number].count++;
        return;
    }
    if (length >= INT32_MAX || trainer->word_count >= INT32_MAX)
        fatal("the text has too long or too many words to train a tokenizer on");
    string_map_put(&trainer->seen, bytes, length, (int32_t)trainer->word_count);
    trainer->words = grow(trainer->words, &trainer->word_capacity, trainer->word_count + 1,
                          sizeof *trainer->words);
    trainer->words[trainer->word_count++] =
        (Word){.first = trainer->token_count, .length = (int32_t)length, .count = 1};
    trainer->tokens = grow(trainer->tokens, &trainer->token_capacity, trainer->token_count + length,
                           sizeof *trainer->tokens);
    for (size_t i = 0; i < length; i++)
        trainer->tokens[trainer->token_count++] =
            trainer->tokenizer->byte_ids[(unsigned char)bytes[i]];
}

static void count_words(Trainer *trainer, const char *text, size_t bytes) {
    size_t count;
    Segment *segments = segments_of(trainer->tokenizer, text, bytes, bytes, &count);
    Matcher matcher;
    matcher_init(&matcher);
    for (size_t i = 0; i < count; i++)
        if (segments[i].id < 0)
            split_words(&trainer->tokenizer->splitter, &matcher, segments[i].text,
                        segments[i].length, count_word, trainer);
    matcher_free(&matcher);
    segments_free(segments, count);
}

/* ---- pairs ---- */

static Pair *pair_of(Trainer *trainer, int32_t left, int32_t right) {
    int32_t number = pair_map_find(&trainer->numbers, left, right);
    if (number < 0) {
        number = (int32_t)trainer->pair_count;
        pair_map_put(&trainer->numbers, left, right, number);
        trainer->pairs = grow(trainer->pairs, &trainer->pair_capacity, trainer->pair_count + 1,
                              sizeof *trainer->pairs);
        trainer->pairs[trainer->pair_count++] = (Pair){.left = left, .right = right};
    }
    return &trainer->pairs[number];
}

static void add_pair(Trainer *trainer, int32_t left, int32_t right, int32_t word) {
    Pair *pair = pair_of(trainer, left, right);
    pair->count += trainer->words[word].count;
    if (pair->word_count && pair->words[pair->word_count - 1] == word) return;
    pair->words =
        grow(pair->words, &pair->word_capacity, pair->word_count + 1, sizeof *pair->words);
    pair->words[pair->word_count++] = word;
}

static void remove_pair(Trainer *trainer, int32_t left, int32_t right, int32_t word) {
    pair_of(trainer, left, right)->count -= trainer->words[word].count;
}

static void offer_pair(Trainer *trainer, const Pair *pair) {
    if (pair->count >= 2)
        heap_push(&trainer->heap, ~(uint64_t)pair->count,
                  (uint64_t)pair->left << 32 | (uint32_t)pair->right);
}

static void count_pairs(Trainer *trainer) {
    for (size_t w = 0; w < trainer->word_count; w++) {
        const int32_t *tokens = trainer->tokens + trainer->words[w].first;
        for (int32_t i = 0; i + 1 < trainer->words[w].length; i++)
            add_pair(trainer, tokens[i], tokens[i + 1], (int32_t)w);
    }
    for (size_t i = 0; i < trainer->pair_count; i++) offer_pair(trainer, &trainer->pairs[i]);
}

/* The pair that occurs most often (of equals, the one of smaller ids), or NULL: none twice. */
static Pair *most_frequent(Trainer *trainer) {
    while (trainer->heap.count > 0) {
        HeapItem item = heap_pop(&trainer->heap);
        Pair *pair = pair_of(trainer, (int32_t)(item.value >> 32), (int32_t)(uint32_t)item.value);
        if (pair->count == (int64_t)~item.key) return pair;
        offer_pair(trainer, pair);
    }
    return NULL;
}

/*
 * Replaces the pair in one word, from left to right. The tokens are, at any moment, those already
 * rewritten [0, out) and those not yet read [in, length); each replacement turns
 *     previous left right next    into    previous merged next
 * and the counts with it, so that they are exact after every step.
 */
static void merge_in_word(Trainer *trainer, int32_t w, int32_t left, int32_t right,
                          int32_t merged) {
    Word *word = &trainer->words[w];
    int32_t *tokens = trainer->tokens + word->first, length = word->length, out = 0;
    for (int32_t in = 0; in < length; out++) {
        if (in + 1 == length || tokens[in] != left || tokens[in + 1] != right) {
            tokens[out] = tokens[in++];
            continue;
        }
        in += 2;
        remove_pair(trainer, left, right, w);
        if (out > 0) {
            remove_pair(trainer, tokens[out - 1], left, w);
            add_pair(trainer, tokens[out - 1], merged, w);
        }
        if (in < length) {
            remove_pair(trainer, right, tokens[in], w);
            add_pair(trainer, merged, tokens[in], w);
        }
        tokens[out] = merged;
    }
    word->length = out;
}

/* ---- training ---- */

/* The token for a pair: its bytes are those of the two in a row. */
static int32_t add_merged_token(Tokenizer *tokenizer, int32_t left, int32_t right) {
    const Token *a = &tokenizer->tokens[left], *b = &tokenizer->tokens[right];
    size_t length = a->length + b->length;
    char *bytes = must_alloc(length, 1);
    memcpy(bytes, a->bytes, a->length);
    memcpy(bytes + a->length, b->bytes, b->length);
    int32_t merged = (int32_t)tokenizer->vocab_size;
    tokenizer_set_token(tokenizer, merged, bytes, length, TOKEN_BYTES);
    tokenizer_add_merge(tokenizer, left, right, merged);
    free(bytes);
    return merged;
}

static void learn_merges(Trainer *trainer, int wanted, TokenizerProgress progress, void *user) {
    for (int done = 0; done < wanted; done++) {
        if (progress && done % 16 == 0) progress(user, done, wanted);
        const Pair *best = most_frequent(trainer);
        if (!best) break;
        /* `best` may move when pairs are added. */
        int32_t left = best->left, right = best->right, *words = best->words;
        size_t word_count = best->word_count, first_new = trainer->pair_count;
        int32_t merged = add_merged_token(trainer->tokenizer, left, right);
        for (size_t i = 0; i < word_count; i++)
            merge_in_word(trainer, words[i], left, right, merged);
        pair_of(trainer, left, right)->words = NULL; /* its count is 0 from now on */
        free(words);
        for (size_t i = first_new; i < trainer->pair_count; i++)
            offer_pair(trainer, &trainer->pairs[i]);
    }
    if (progress) progress(user, wanted, wanted);
}

/* Ids 0 .. 255: the bytes in the order of the characters they are written as. */
static void add_bytes(Tokenizer *tokenizer) {
    int32_t id = 0;
    for (uint32_t character = 0; id < 256; character++) {
        int byte = character_to_byte(character);
        if (byte < 0) continue;
        tokenizer->byte_ids[byte] = id;
        tokenizer_set_token(tokenizer, id++, &(char){(char)byte}, 1, TOKEN_BYTES);
    }
}

static void trainer_free(Trainer *trainer) {
    for (size_t i = 0; i < trainer->pair_count; i++) free(trainer->pairs[i].words);
    free(trainer->seen.slots);
    free(trainer->words);
    free(trainer->tokens);
    free(trainer->numbers.slots);
    free(trainer->pairs);
    free(trainer->heap.items);
}

Tokenizer *tokenizer_train(const char *text, size_t bytes, int vocab_size,
                           TokenizerProgress progress, void *user, Error *err) {
    if (vocab_size < 257) {
        error_set(err, "a vocabulary of %d is too small: 256 bytes and " END_OF_TEXT " need 257",
                  vocab_size);
        return NULL;
    }
    if (bytes == 0) {
        error_set(err, "the text to train the tokenizer on is empty");
        return NULL;
    }
    Tokenizer *tokenizer = tokenizer_new();
    add_bytes(tokenizer);
    int result = splitter_add(&tokenizer->splitter, pattern_of_gpt2(), SPLIT_ISOLATED, false,
                              "GPT-2's pattern", err);
    CHECK(result == 0, "GPT-2's pattern does not compile");
    /* Its id is known at the end; 0 says to segments_of() that there is such a token. */
    added_token(tokenizer, END_OF_TEXT, 0, false);
    added_tokens_sort(tokenizer);

    Trainer trainer = {.tokenizer = tokenizer};
    count_words(&trainer, text, bytes);
    count_pairs(&trainer);
    learn_merges(&trainer, vocab_size - 257, progress, user);
    trainer_free(&trainer);

    int32_t end = (int32_t)tokenizer->vocab_size;
    tokenizer->added[0].id = end;
    tokenizer_set_token(tokenizer, end, END_OF_TEXT, strlen(END_OF_TEXT), TOKEN_ADDED);
    tokenizer_set_end(tokenizer, end);
    shell_for_training(tokenizer);
    return tokenizer;
}
