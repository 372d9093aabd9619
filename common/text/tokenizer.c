/*
 * The tokenizer's tables, its tokens, and decoding.
 */
#include "common/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- hash tables: open addressing, linear probing, at most half full ---- */

enum { FIRST_CAPACITY = 64 };

/* Spreads the bits of x (MurmurHash3's finaliser): the low bits of the result index a table. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
    return x ^ (x >> 33);
}

/* Drawn anew for each process: nobody can choose words, or merges, that all want the same place in
 * a table. Nothing but time depends on it. */
static uint64_t seed;

__attribute__((constructor)) static void draw_seed(void) {
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = (uint64_t)(uintptr_t)&seed ^ (uint64_t)time(NULL); /* addresses are random, too */
}

uint64_t hash_bytes(const char *bytes, size_t length) {
    uint64_t hash = seed ^ length;
    for (; length >= 8; length -= 8, bytes += 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        hash = mix(hash ^ word);
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < length; i++) rest = rest << 8 | (unsigned char)bytes[i];
    return mix(hash ^ rest);
}

typedef struct StringSlot {
    const char *key; /* NULL: free */
    size_t length;
    int32_t value;
} StringSlot;

/* The slot that holds the key, or the free one where it belongs. */
static StringSlot *string_slot(const StringMap *map, const char *key, size_t length) {
    size_t mask = map->capacity - 1;
    for (size_t i = hash_bytes(key, length) & mask;; i = (i + 1) & mask) {
        StringSlot *slot = &map->slots[i];
        if (!slot->key || (slot->length == length && memcmp(slot->key, key, length) == 0))
            return slot;
    }
}

int32_t string_map_find(const StringMap *map, const char *key, size_t length) {
    if (map->count == 0) return -1;
    const StringSlot *slot = string_slot(map, key, length);
    return slot->key ? slot->value : -1;
}

void string_map_put(StringMap *map, const char *key, size_t length, int32_t value) {
    if (2 * (map->count + 1) > map->capacity) {
        StringMap larger = {.capacity = map->capacity ? 2 * map->capacity : FIRST_CAPACITY};
        larger.slots = must_alloc(larger.capacity, sizeof *larger.slots);
        larger.count = map->count;
        for (size_t i = 0; i < map->capacity; i++) {
            StringSlot slot = map->slots[i];
            if (slot.key) *string_slot(&larger, slot.key, slot.length) = slot;
        }
        free(map->slots);
        *map = larger;
    }
    StringSlot *slot = string_slot(map, key, length);
    if (!slot->key) map->count++;
    *slot = (StringSlot){.key = key, .length = length, .value = value};
}

typedef struct PairSlot {
    int32_t left, right;
    int32_t value; /* + 1, so that 0 is a free slot */
} PairSlot;

static PairSlot *pair_slot(const PairMap *map, int32_t left, int32_t right) {
    size_t mask = map->capacity - 1;
    /* One multiplication by an odd number that nobody knows (multiply-shift hashing, Dietzfelbinger
     * et al. 1997), of which the upper bits count: encoding asks here for every pair of a new
     * word. */
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int shift = __builtin_clzll(mask);
    for (size_t i = (key * (seed | 1)) >> shift;; i = (i + 1) & mask) {
        PairSlot *slot = &map->slots[i];
        if (!slot->value || (slot->left == left && slot->right == right)) return slot;
    }
}

int32_t pair_map_find(const PairMap *map, int32_t left, int32_t right) {
    return map->count ? pair_slot(map, left, right)->value - 1 : -1;
}

void pair_map_put(PairMap *map, int32_t left, int32_t right, int32_t value) {
    if (2 * (map->count + 1) > map->capacity) {
        PairMap larger = {.capacity = map->capacity ? 2 * map->capacity : FIRST_CAPACITY};
        larger.slots = must_alloc(larger.capacity, sizeof *larger.slots);
        larger.count = map->count;
        for (size_t i = 0; i < map->capacity; i++) {
            PairSlot slot = map->slots[i];
            if (slot.value) *pair_slot(&larger, slot.left, slot.right) = slot;
        }
        free(map->slots);
        *map = larger;
    }
    PairSlot *slot = pair_slot(map, left, right);
    if (!slot->value) map->count++;
    *slot = (PairSlot){.left = left, .right = right, .value = value + 1};
}

/* ---- heap ---- */

static bool before(HeapItem a, HeapItem b) {
    return a.key < b.key || (a.key == b.key && a.value < b.value);
}

void heap_push(Heap *heap, uint64_t key, uint64_t value) {
    heap->items = grow(heap->items, &heap->capacity, heap->count + 1, sizeof *heap->items);
    HeapItem item = {key, value};
    size_t i = heap->count++;
    for (; i > 0 && before(item, heap->items[(i - 1) / 2]); i = (i - 1) / 2)
        heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
}

HeapItem heap_pop(Heap *heap) {
    HeapItem top = heap->items[0], last = heap->items[--heap->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && before(heap->items[child + 1], heap->items[child])) child++;
        if (!before(heap->items[child], last)) break;
        heap->items[i] = heap->items[child];
    }
    heap->items[i] = last;
    return top;
}

/* ---- GPT-2's alphabet ---- */

/*
 * The bytes that are printable in Latin-1 (0x21-7E, A1-AC, AE-FF) stand for themselves. The other
 * 68, in order, become U+0100, U+0101, ...: so a space is written as U+0120.
 */
uint32_t byte_to_character(unsigned char byte) {
    if (byte <= 0x20) return 0x100u + byte;
    if (byte >= 0x7F && byte <= 0xA0) return 0x100u + 0x21 + (byte - 0x7Fu);
    if (byte == 0xAD) return 0x100u + 0x21 + 0x22;
    return byte;
}

int character_to_byte(uint32_t character) {
    if (character > 0x143) return -1;
    for (int byte = 0; character >= 0x100 && byte < 256; byte++)
        if (byte_to_character((unsigned char)byte) == character) return byte;
    return byte_to_character((unsigned char)character) == character ? (int)character : -1;
}

/* ---- the tokenizer ---- */

Tokenizer *tokenizer_new(void) {
    Tokenizer *tokenizer = must_alloc(1, sizeof *tokenizer);
    memset(tokenizer->byte_ids, -1, sizeof tokenizer->byte_ids);
    tokenizer->bos = -1;
    return tokenizer;
}

void tokenizer_free(Tokenizer *tokenizer) {
    if (!tokenizer) return;
    for (size_t id = 0; id < tokenizer->vocab_size; id++) free(tokenizer->tokens[id].bytes);
    for (size_t i = 0; i < tokenizer->added_count; i++) free(tokenizer->added[i].text);
    splitter_free(&tokenizer->splitter);
    free(tokenizer->tokens);
    free(tokenizer->merges);
    free(tokenizer->ranks.slots);
    free(tokenizer->words.slots);
    free(tokenizer->added);
    for (int i = 0; i < tokenizer->kept_count; i++) free(tokenizer->kept[i].bytes);
    free(tokenizer->kept);
    cJSON_Delete(tokenizer->shell);
    free(tokenizer);
}

void tokenizer_set_token(Tokenizer *tokenizer, int32_t id, const char *bytes, size_t length,
                         TokenKind kind) {
    size_t needed = (size_t)id + 1, old = tokenizer->vocab_size;
    tokenizer->tokens =
        grow(tokenizer->tokens, &tokenizer->token_capacity, needed, sizeof *tokenizer->tokens);
    if (needed > old) {
        memset(tokenizer->tokens + old, 0, (needed - old) * sizeof *tokenizer->tokens);
        tokenizer->vocab_size = needed;
    }
    Token *token = &tokenizer->tokens[id];
    free(token->bytes);
    *token = (Token){.bytes = must_alloc(length + 1, 1), .length = length, .kind = kind};
    memcpy(token->bytes, bytes, length);
}

void tokenizer_add_merge(Tokenizer *tokenizer, int32_t left, int32_t right, int32_t result) {
    tokenizer->merges = grow(tokenizer->merges, &tokenizer->merge_capacity,
                             tokenizer->merge_count + 1, sizeof *tokenizer->merges);
    pair_map_put(&tokenizer->ranks, left, right, (int32_t)tokenizer->merge_count);
    tokenizer->merges[tokenizer->merge_count++] = (Merge){left, right, result};
}

int tokenizer_vocab_size(const Tokenizer *tokenizer) { return (int)tokenizer->vocab_size; }

int tokenizer_eot(const Tokenizer *tokenizer) {
    return tokenizer->end_count ? tokenizer->ends[0] : -1;
}

int tokenizer_bos(const Tokenizer *tokenizer) { return tokenizer->bos; }

bool tokenizer_is_end(const Tokenizer *tokenizer, int32_t id) {
    for (int i = 0; i < tokenizer->end_count; i++)
        if (tokenizer->ends[i] == id) return true;
    return false;
}

void tokenizer_set_end(Tokenizer *tokenizer, int32_t id) {
    if (tokenizer->end_count == 1 && tokenizer->ends[0] == id) return;
    tokenizer->end_count = 0;
    tokenizer_add_end(tokenizer, id);
}

void tokenizer_add_end(Tokenizer *tokenizer, int32_t id) {
    int *ends = tokenizer->ends, at = 0;
    while (at < tokenizer->end_count && ends[at] != id) at++;
    if (at == 0 && tokenizer->end_count) return; /* it is the first already */
    if (at == tokenizer->end_count && at < MAX_ENDS) tokenizer->end_count++;
    if (at == MAX_ENDS) at--;
    for (; at; at--) ends[at] = ends[at - 1];
    ends[0] = id;
    tokenizer->ends_changed = true;
}

const char *tokenizer_token(const Tokenizer *tokenizer, int32_t id, size_t *bytes) {
    *bytes = 0;
    if (id < 0 || (size_t)id >= tokenizer->vocab_size || !tokenizer->tokens[id].bytes) return "";
    *bytes = tokenizer->tokens[id].length;
    return tokenizer->tokens[id].bytes;
}

char *tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count,
                       size_t *bytes) {
    size_t total = 0, length;
    for (size_t i = 0; i < count; i++) {
        tokenizer_token(tokenizer, ids[i], &length);
        total += length;
    }
    char *text = must_alloc(total + 1, 1);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const char *token = tokenizer_token(tokenizer, ids[i], &length);
        memcpy(text + used, token, length);
        used += length;
    }
    *bytes = total;
    return text;
}
