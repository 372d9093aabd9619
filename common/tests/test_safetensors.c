/*
 * safetensors: what Python writes is read, what is written is read back, and whatever is broken is
 * refused with a message, never with a crash.
 */
#include "common/files/safetensors.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <signal.h>
#include <sys/resource.h>

/* ---- files that are right ---- */

/* Byte k of every tensor in the golden file and below is this, so that no second copy is needed. */
static unsigned char pattern(size_t k) { return (unsigned char)(k * 37 + 11); }

static void expect_pattern(const Tensor *t) {
    const unsigned char *bytes = t->data;
    for (size_t k = 0; k < tensor_bytes(t); k++)
        cr_assert(bytes[k] == pattern(k), "byte %zu of %s is %d", k, t->name, bytes[k]);
    cr_expect((uintptr_t)t->data % dtype_size(t->dtype) == 0, "%s is not aligned", t->name);
}

static void expect_tensor(const SafeTensors *file, const char *name, DType dtype,
                          const int64_t *shape, int ndim) {
    const Tensor *t = safetensors_get(file, name, shape, ndim, &err);
    cr_assert(t, "%s", err.text);
    cr_expect(t->dtype == dtype, "%s is %s", name, dtype_name(t->dtype));
    cr_expect_str_eq(t->name, name);
    expect_pattern(t);
}

static void expect_all_dtypes(const SafeTensors *file) {
    expect_tensor(file, "f32", F32, SHAPE(2, 3));
    expect_tensor(file, "bf16", BF16, SHAPE(3, 5));
    expect_tensor(file, "f16", F16, SHAPE(7));
    expect_tensor(file, "f8_e4m3", F8_E4M3, SHAPE(3, 3));
    expect_tensor(file, "f8_e5m2", F8_E5M2, SHAPE(5));
    expect_tensor(file, "f8_e8m0", F8_E8M0, SHAPE(7));
    expect_tensor(file, "i8", I8, SHAPE(1, 2, 3, 1));
    expect_tensor(file, "u8", U8, SHAPE(3));
    expect_tensor(file, "i32", I32, SHAPE(2, 2));
    expect_tensor(file, "i64", I64, SHAPE(3));
    expect_tensor(file, "scalar", F32, NULL, 0);
    expect_tensor(file, "empty", F32, SHAPE(0, 3));
    cr_expect(safetensors_count(file) == 12);
    cr_expect_str_eq(safetensors_metadata(file, "format"), "pt");
    cr_expect_str_eq(safetensors_metadata(file, "note"), "caf\xc3\xa9 \"quoted\"\n");
    cr_expect_null(safetensors_metadata(file, "absent"));
}

Test(safetensors, reads_what_python_writes) {
    SafeTensors *file = golden_open("common/tests/goldens/dtypes.safetensors");
    expect_all_dtypes(file);
}

static unsigned char content[256];

static int sample_tensors(Tensor *tensors) {
    for (size_t k = 0; k < sizeof content; k++) content[k] = pattern(k);
    int n = 0;
    tensors[n++] = tensor_view(content, "u8", U8, CPU, SHAPE(3)); /* odd sizes first: a trap */
    tensors[n++] = tensor_view(content, "f8_e5m2", F8_E5M2, CPU, SHAPE(5));
    tensors[n++] = tensor_view(content, "f8_e4m3", F8_E4M3, CPU, SHAPE(3, 3));
    tensors[n++] = tensor_view(content, "f8_e8m0", F8_E8M0, CPU, SHAPE(7));
    tensors[n++] = tensor_view(content, "i8", I8, CPU, SHAPE(1, 2, 3, 1));
    tensors[n++] = tensor_view(content, "f16", F16, CPU, SHAPE(7));
    tensors[n++] = tensor_view(content, "bf16", BF16, CPU, SHAPE(3, 5));
    tensors[n++] = tensor_view(content, "scalar", F32, CPU, NULL, 0);
    tensors[n++] = tensor_view(NULL, "empty", F32, CPU, SHAPE(0, 3));
    tensors[n++] = tensor_view(content, "f32", F32, CPU, SHAPE(2, 3));
    tensors[n++] = tensor_view(content, "i32", I32, CPU, SHAPE(2, 2));
    tensors[n++] = tensor_view(content, "i64", I64, CPU, SHAPE(3));
    return n;
}

Test(safetensors, reads_what_it_writes) {
    Scratch scratch = scratch_open();
    Tensor tensors[16];
    int count = sample_tensors(tensors);
    const char *path = scratch_path(&scratch, "all.safetensors");
    KeyValue note = {"note", "caf\xc3\xa9 \"quoted\"\n"};
    for (int again = 0; again < 2; again++) /* the second time it replaces the first */
        check_ok(safetensors_write(path, tensors, count, &note, 1, &err), &err);
    SafeTensors *file = safetensors_open(path, &err);
    cr_assert(file, "%s", err.text);
    expect_all_dtypes(file);
    cr_expect_str_eq(safetensors_path(file), path);
    const char *begin = safetensors_at(file, 0)->data;
    for (int i = 1; i < count; i++) /* "in order of their offsets" */
        cr_expect((const char *)safetensors_at(file, i)->data >= begin);

    check_ok(safetensors_write(path, NULL, 0, NULL, 0, &err), &err);
    file = safetensors_open(path, &err);
    cr_assert(file, "%s", err.text);
    check_all(safetensors_count(file) == 0, !safetensors_find(file, "f32"));
    cr_expect(scratch_count(&scratch) == 1, "a temporary file was left");
}

Test(safetensors, get_says_what_was_wanted) {
    SafeTensors *file = golden_open("common/tests/goldens/dtypes.safetensors");
    cr_expect_null(safetensors_get(file, "f33", SHAPE(2, 3), &err));
    cr_expect(strstr(err.text, "no tensor 'f33'") && strstr(err.text, "dtypes.safetensors"), "%s",
              err.text);
    cr_expect_null(safetensors_get(file, "f32", SHAPE(3, 2), &err));
    cr_expect(strstr(err.text, "'f32' has shape [2, 3], but [3, 2] is needed"), "%s", err.text);
    cr_expect_null(safetensors_get(file, "f32", SHAPE(6), &err));
    cr_expect_not_null(safetensors_get(file, "f32", SHAPE(-1, 3), &err));
}

/* ---- writing that fails ---- */

Test(safetensors, failed_writes_keep_the_old_file) {
    Scratch scratch = scratch_open();
    const char *path = scratch_path(&scratch, "a.safetensors");
    Tensor small = tensor_view(content, "small", U8, CPU, SHAPE(8));
    check_ok(safetensors_write(path, &small, 1, NULL, 0, &err), &err);

    Tensor bad_name = tensor_view(content, "\xff", U8, CPU, SHAPE(8));
    cr_expect(safetensors_write(path, &bad_name, 1, NULL, 0, &err) == -1);
    cr_expect(strstr(err.text, "invalid UTF-8") && strstr(err.text, path), "%s", err.text);
    KeyValue bad_value = {"note", "\xc3"};
    cr_expect(safetensors_write(path, &small, 1, &bad_value, 1, &err) == -1);

    signal(SIGXFSZ, SIG_IGN); /* then a write beyond the limit fails, as on a full disk */
    struct rlimit limit = {.rlim_cur = 100000, .rlim_max = RLIM_INFINITY};
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    void *data = calloc(1, 1000000);
    Tensor large = tensor_view(data, "large", U8, CPU, SHAPE(1000000));
    cr_expect(safetensors_write(path, &large, 1, NULL, 0, &err) == -1);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_expect(strstr(err.text, "too large") && strstr(err.text, path), "%s", err.text);
    cr_expect(safetensors_write("/proc/none/a", &large, 1, NULL, 0, &err) == -1);

    SafeTensors *file = safetensors_open(path, &err);
    cr_assert(file, "%s", err.text);
    cr_expect_not_null(safetensors_find(file, "small"), "the old file is gone");
    cr_expect(scratch_count(&scratch) == 1, "a temporary file was left");
}

/* ---- files that are broken ---- */

enum { HONEST = -1 };

typedef struct Broken {
    const char *header;
    long data;           /* bytes after the header */
    const char *message; /* part of it */
    long long length;    /* what the file says of its header's length, or HONEST */
} Broken;

/* An entry "a" of F32 [2], bytes 0 .. 8, with one thing changed. */
#define ENTRY(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                 \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" first "}," \
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" second "}}"
#define GOOD ENTRY("\"F32\"", "[2]", "[0,8]")

static const Broken broken_files[] = {
    /* the header's length */
    {GOOD, 8, "does not begin with '{'", 0},
    {GOOD, 8, "header should have 99 bytes", 99},
    {GOOD, 8, "longer than the 100000000 allowed", 100000001},
    {GOOD, 8, "longer than the 100000000 allowed", 0x7fffffffffffffff},
    {GOOD, 8, "longer than the 100000000 allowed", -2}, /* 2^64 - 2: no addition may wrap */
    {GOOD, 8, "not JSON", 5},
    {GOOD, 8, "control character", 59}, /* data within the header: it is zeros */
    /* not JSON, or JSON of another kind */
    {"", 0, "does not begin with '{'", HONEST},
    {"[]", 0, "does not begin with '{'", HONEST},
    {"null", 0, "does not begin with '{'", HONEST},
    {"{", 0, "not JSON", HONEST},
    {"{}}", 0, "not JSON", HONEST},
    {"{\"a\"}", 0, "not JSON", HONEST},
    {"{\"a\":}", 0, "not JSON", HONEST},
    {"{\"a\":1,}", 0, "not JSON", HONEST},
    {"{'a':{}}", 0, "not JSON", HONEST},
    {"{\"a\":1}", 0, "'a' is not an object", HONEST},
    {"{\"a\":null}", 0, "'a' is not an object", HONEST},
    {"{\"a\":[]}", 0, "'a' is not an object", HONEST},
    {"{\"a\xff\":{}}", 0, "invalid UTF-8", HONEST},
    {"{\"\xed\xa0\x80\":{}}", 0, "invalid UTF-8", HONEST},
    {"{\"a\\u0000b\":{}}", 0, "zero character", HONEST},
    /* the library's JSON is strict, where cJSON is not */
    {"\xef\xbb\xbf{}", 0, "does not begin with '{'", HONEST},
    {"{\"a\nb\":{}}", 0, "control character in a name", HONEST},
    {"{\"a\tb\":{}}", 0, "control character in a name at byte 4", HONEST},
    {"{\"a\\\"\n\":{}}", 0, "control character in a name", HONEST},
    {ENTRY("\"F32\"", "[2.0]", "[0,8]"), 8, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[2e0]", "[0,8]"), 8, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[02]", "[0,8]"), 8, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[2]", "[-0,8]"), 8, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[2]", "[0,8.0]"), 8, "not written as a whole one", HONEST},
    /* missing fields, fields twice */
    {"{\"a\":{}}", 0, "'a' has no dtype", HONEST},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "'a' has no shape", HONEST},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets of tensor 'a'", HONEST},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'a' has no dtype", HONEST},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "'a' has 'dtype' twice", HONEST},
    /* dtypes */
    {ENTRY("1", "[2]", "[0,8]"), 8, "'a' has no dtype", HONEST},
    {ENTRY("\"F33\"", "[2]", "[0,8]"), 8, "dtype F33, which safetensors does not know", HONEST},
    {ENTRY("\"f32\"", "[2]", "[0,8]"), 8, "dtype f32, which safetensors does not know", HONEST},
    {ENTRY("\"\"", "[2]", "[0,8]"), 8, "dtype ,", HONEST},
    {ENTRY("\"F64\"", "[1]", "[0,8]"), 8, "dtype F64, which is not one that can be read", HONEST},
    /* shapes */
    {ENTRY("\"F32\"", "2", "[0,8]"), 8, "'a' has no shape", HONEST},
    {ENTRY("\"F32\"", "{}", "[0,8]"), 8, "'a' has no shape", HONEST},
    {ENTRY("\"F32\"", "[\"2\"]", "[0,8]"), 8, "size 0 of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2,null]", "[0,8]"), 8, "size 1 of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[-2]", "[0,8]"), 8, "size 0 of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[-1,-2]", "[0,8]"), 8, "size 0 of tensor 'a'", HONEST},
    {ENTRY("\"BOOL\"", "[8]", "[0,8]"), 8, "dtype BOOL, which is not one that can be read", HONEST},
    {ENTRY("\"U16\"", "[4]", "[0,8]"), 8, "dtype U16, which is not one", HONEST},
    {ENTRY("\"F32\"", "[2.5]", "[0,10]"), 10, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[9007199254740993]", "[0,8]"), 8, "size 0 of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[1e30]", "[0,8]"), 8, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "more than 2^63 bytes", HONEST},
    {ENTRY("\"F32\"", "[2147483648,2147483648,2]", "[0,8]"), 8, "more than 2^63 bytes", HONEST},
    {ENTRY("\"F32\"", "[1,1,1,1,2]", "[0,8]"), 8, "more than 4 dimensions", HONEST},
    {ENTRY("\"F32\"", "[3]", "[0,8]"), 8, "is 12 bytes, but has 8", HONEST},
    {ENTRY("\"F32\"", "[]", "[0,8]"), 8, "is 4 bytes, but has 8", HONEST},
    {ENTRY("\"F32\"", "[0]", "[0,8]"), 8, "is 0 bytes, but has 8", HONEST},
    {ENTRY("\"BF16\"", "[2]", "[0,8]"), 8, "is 4 bytes, but has 8", HONEST},
    /* offsets */
    {ENTRY("\"F32\"", "[2]", "8"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[]"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[0]"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[0,8,16]"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[-8,0]"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[0.5,8.5]"), 9, "not written as a whole one", HONEST},
    {ENTRY("\"F32\"", "[2]", "[\"0\",\"8\"]"), 8, "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[18446744073709551608,18446744073709551616]"), 8,
     "data_offsets of tensor 'a'", HONEST},
    {ENTRY("\"F32\"", "[2]", "[8,0]"), 8, "ends (0) before it begins (8)", HONEST},
    {GOOD, 7, "has only 7: it is incomplete", HONEST},
    {GOOD, 0, "has only 0: it is incomplete", HONEST},
    {ENTRY("\"F32\"", "[2]", "[9007199254740983,9007199254740991]"), 8, "incomplete", HONEST},
    /* how the tensors lie */
    {ENTRY("\"F32\"", "[2]", "[4,12]"), 12, "4 bytes before tensor 'a' belong to no", HONEST},
    {GOOD, 9, "1 bytes at the end belong to no tensor", HONEST},
    {"{}", 1, "1 bytes at the end belong to no tensor", HONEST},
    {TWO("[0,8]", "[12,20]"), 20, "4 bytes before tensor 'b' belong to no tensor", HONEST},
    {TWO("[0,8]", "[4,12]"), 12, "tensors 'a' and 'b' overlap", HONEST},
    {TWO("[0,8]", "[0,8]"), 8, "tensors 'a' and 'b' overlap", HONEST},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}",
     8, "tensors 'a' and 'b' overlap", HONEST},
    /* names */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     2, "two tensors 'a'", HONEST},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
     2, "two tensors 'a'", HONEST},
    /* metadata */
    {"{\"__metadata__\":1}", 0, "__metadata__ is not an object", HONEST},
    {"{\"__metadata__\":{\"step\":1}}", 0, "'step' in __metadata__ is not a string", HONEST},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "__metadata__ has 'a' twice", HONEST},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is there twice", HONEST},
};

/* Writes length | header | data into bytes (which has room) and returns how many they are. */
static size_t build_file(unsigned char *bytes, const Broken *broken) {
    size_t length = strlen(broken->header), data = (size_t)broken->data;
    uint64_t said = broken->length == HONEST ? length : (uint64_t)broken->length;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(said >> (8 * i));
    memcpy(bytes + 8, broken->header, length);
    memset(bytes + 8 + length, 0, data);
    return 8 + length + data;
}

/* Opens the file and reads every byte of every tensor: what opens must be readable. */
static bool opens(const char *path, Error *err) {
    static volatile unsigned sum;
    SafeTensors *file = safetensors_open(path, err);
    if (!file) return false;
    for (int i = 0; i < safetensors_count(file); i++) {
        const Tensor *t = safetensors_at(file, i);
        for (size_t k = 0; k < tensor_bytes(t); k++) sum += ((const unsigned char *)t->data)[k];
        cr_expect(safetensors_find(file, t->name) == t);
    }
    return true;
}

Test(safetensors, refuses_broken_files) {
    Scratch scratch = scratch_open();
    unsigned char bytes[1024];
    size_t rows = sizeof broken_files / sizeof *broken_files;
    cr_expect(rows >= 40);
    for (size_t i = 0; i < rows; i++) {
        size_t size = build_file(bytes, &broken_files[i]);
        const char *path = scratch_write(&scratch, "broken", bytes, size);
        Error err = {""};
        cr_expect(!opens(path, &err), "row %zu was accepted: %s", i, broken_files[i].header);
        cr_expect(strstr(err.text, broken_files[i].message) && strstr(err.text, path),
                  "row %zu: '%s' should say '%s'", i, err.text, broken_files[i].message);
        cr_expect(!strchr(err.text, '\n'));
    }
}

Test(safetensors, accepts_unusual_files) {
    const Broken unusual[] = {
        {"{}", 0, "", HONEST},
        {"{}      ", 0, "", HONEST},
        {" \n\t{}\r\n", 0, "", HONEST},
        {"{\"__metadata__\":null}", 0, "", HONEST},
        {"{\"1.0 -0 01\":{\"dtype\":\"U8\",\"shape\":[10,0],\"data_offsets\":[0,0]}}", 0, "",
         HONEST},
        {GOOD, 8, "", HONEST},
        {TWO("[8,16]", "[0,8]"), 16, "", HONEST}, /* the header's order is not the data's */
        {ENTRY("\"F32\"", "[0,9007199254740991,3]", "[0,0]"), 0, "", HONEST},
        {ENTRY("\"F32\"", "[]", "[0,4]"), 4, "", HONEST},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[3,11]}}",
         11, "", HONEST}, /* 'b' is not aligned */
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"extra\":[{}]}}", 0, "",
         HONEST},
    };
    Scratch scratch = scratch_open();
    unsigned char bytes[1024];
    for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
        size_t size = build_file(bytes, &unusual[i]);
        Error err = {""};
        bool good = opens(scratch_write(&scratch, "unusual", bytes, size), &err);
        cr_expect(good, "row %zu: %s", i, err.text);
    }
}

Test(safetensors, misaligned_tensors_are_copied) {
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                         "\"b\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[1,5]}}";
    unsigned char bytes[1024];
    size_t size = build_file(bytes, &(Broken){header, 5, "", HONEST});
    for (size_t k = 0; k < 4; k++) bytes[size - 4 + k] = pattern(k);
    Scratch scratch = scratch_open();
    SafeTensors *file = safetensors_open(scratch_write(&scratch, "a", bytes, size), NULL);
    cr_assert_not_null(file);
    expect_tensor(file, "b", I32, SHAPE(1));
}

/* A header of 100,000 brackets must not use up the stack. */
Test(safetensors, refuses_depth_bombs) {
    Scratch scratch = scratch_open();
    enum { DEPTH = 100000 };
    unsigned char *bytes = malloc(16 + DEPTH);
    for (const char *bracket = "[{"; *bracket; bracket++) {
        memcpy(bytes, "\0\0\0\0\0\0\0\0{\"a\":", 13);
        for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)(5 + DEPTH) >> (8 * i));
        for (int i = 0; i < DEPTH; i++)
            bytes[13 + i] = (unsigned char)(*bracket == '{' ? "{\"a\":"[i % 5] : '[');
        Error err = {""};
        cr_expect(!opens(scratch_write(&scratch, "bomb", bytes, 13 + DEPTH), &err));
        cr_expect(strstr(err.text, "not JSON"), "%s", err.text);
    }
}

static size_t read_golden(unsigned char *bytes, size_t room) {
    SafeTensors *golden = golden_open("common/tests/goldens/dtypes.safetensors");
    FILE *stream = fopen(safetensors_path(golden), "rb");
    size_t size = fread(bytes, 1, room, stream);
    check_all(size > 0, size < room);
    fclose(stream);
    return size;
}

Test(safetensors, refuses_every_truncation) {
    Scratch scratch = scratch_open();
    unsigned char bytes[4096];
    size_t size = read_golden(bytes, sizeof bytes);
    for (size_t cut = 0; cut < size; cut++) {
        Error err = {""};
        const char *path = scratch_write(&scratch, "cut", bytes, cut);
        cr_assert(!opens(path, &err), "the first %zu of %zu bytes were accepted", cut, size);
        cr_assert(strstr(err.text, path), "cut at %zu: '%s'", cut, err.text);
    }
}

/* Up to three bytes of a good file changed at random (fixed seed): opens or is refused, no more. */
Test(safetensors, survives_changed_bytes) {
    Scratch scratch = scratch_open();
    unsigned char bytes[4096], changed[4096];
    size_t size = read_golden(bytes, sizeof bytes);
    int refused = 0;
    for (uint64_t round = 0; round < 4000; round++) {
        memcpy(changed, bytes, size);
        for (uint64_t i = 0; i < 1 + round % 3; i++) {
            Philox random = philox(1, round, i);
            /* Half of the changes put in a character that means something to JSON. */
            unsigned char byte =
                (unsigned char)(random.word[2] & 1
                                    ? "{}[],:\"0123456789-eE.\\u"[random.word[1] % 23]
                                    : (int)(random.word[1] & 0xff));
            changed[random.word[0] % size] = byte;
        }
        Error err = {""};
        const char *path = scratch_write(&scratch, "changed", changed, size);
        if (opens(path, &err)) continue;
        refused++;
        cr_assert(strstr(err.text, path), "round %d: '%s'", (int)round, err.text);
    }
    cr_expect(refused > 1000, "only %d of 4000 were refused", refused);
}
