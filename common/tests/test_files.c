/*
 * Files: what may be mapped, and that replacing a file never harms the old one.
 */
#include "common/files/csv.h"
#include "common/files/files.h"
#include "common/files/json.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void expect_content(const char *path, const char *expected) {
    MappedFile file;
    check_ok(file_map(&file, path, &err), &err);
    cr_expect(file.size == strlen(expected) && memcmp(file.data, expected, file.size) == 0,
              "%s has other content than '%s'", path, expected);
    file_unmap(&file);
}

/* ---- reading ---- */

Test(file_map, refuses_what_is_no_file) {
    Scratch scratch = scratch_open();
    char pipe[400];
    snprintf(pipe, sizeof pipe, "%s", scratch_path(&scratch, "pipe"));
    cr_assert(mkfifo(pipe, 0600) == 0);
    const struct {
        const char *path, *message;
    } cases[] = {
        {"/proc/none/model.safetensors", "No such file"},
        {"", "No such file"},
        {scratch.directory, "is a directory"},
        {"/dev/null", "is a device"},
        {pipe, "is a pipe"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MappedFile file;
        Error err = {""};
        cr_expect(file_map(&file, cases[i].path, &err) == -1, "%s was mapped", cases[i].path);
        cr_expect(strstr(err.text, cases[i].message) && strstr(err.text, cases[i].path),
                  "'%s' should say '%s'", err.text, cases[i].message);
        file_unmap(&file); /* harmless after a failure */
    }
}

Test(file_map, reads_all_bytes_and_none) {
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, "a", "abc\0\xff", 5);
    MappedFile file;
    cr_assert(file_map(&file, path, NULL) == 0);
    check_all(file.size == 5, memcmp(file.data, "abc\0\xff", 5) == 0);
    file_unmap(&file);
    cr_assert(file_map(&file, scratch_write(&scratch, "empty", "", 0), NULL) == 0);
    check_all(file.size == 0, file.data);
    file_unmap(&file);
}

/* ---- replacing ---- */

Test(atomic, old_content_until_commit) {
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, "a", "old", 3);
    chmod(path, 0640);
    AtomicFile file;
    check_ok(atomic_open(&file, path, &err), &err);
    fputs("new", file.stream);
    fflush(file.stream);
    expect_content(path, "old");
    check_ok(atomic_commit(&file, &err), &err);
    expect_content(path, "new");
    struct stat info;
    cr_assert(stat(path, &info) == 0);
    cr_expect((info.st_mode & 0777) == 0640, "the mode was not kept");
    atomic_abandon(&file); /* harmless */
    expect_content(path, "new");
    cr_expect(scratch_count(&scratch) == 1, "a temporary file was left");
}

Test(atomic, abandon_leaves_nothing) {
    Scratch scratch = scratch_open();
    AtomicFile file;
    cr_assert(atomic_open(&file, scratch_path(&scratch, "new"), NULL) == 0);
    fputs("x", file.stream);
    cr_expect(scratch_count(&scratch) == 1);
    atomic_abandon(&file);
    cr_expect(scratch_count(&scratch) == 0);
}

Test(atomic, follows_links) {
    Scratch scratch = scratch_open();
    char link[400];
    snprintf(link, sizeof link, "%s", scratch_path(&scratch, "link"));
    const char *path = scratch_write(&scratch, "a", "old", 3);
    cr_assert(symlink("a", link) == 0);
    AtomicFile file;
    cr_assert(atomic_open(&file, link, NULL) == 0);
    fputs("new", file.stream);
    cr_assert(atomic_commit(&file, NULL) == 0);
    expect_content(path, "new");
    struct stat info;
    cr_expect(lstat(link, &info) == 0 && S_ISLNK(info.st_mode), "the link was replaced");
}

Test(atomic, refuses_bad_targets) {
    char longest[700];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    const struct {
        const char *path, *message;
    } cases[] = {
        {"/dev/full", "is a device"}, /* a rename would replace the device by a file */
        {"/tmp", "is a directory"},         {"/proc/none/a", "No such file"},
        {"/dev/null/a", "Not a directory"}, {longest, "too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        AtomicFile file;
        Error err = {""};
        cr_expect(atomic_open(&file, cases[i].path, &err) == -1, "%s was opened", cases[i].path);
        cr_expect(strstr(err.text, cases[i].message), "'%s' should say '%s'", err.text,
                  cases[i].message);
    }
}

/* The stream writes to /dev/full: what fflush() sees on a disk without room. */
Test(atomic, full_disk_keeps_the_old_file) {
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, "a", "old", 3);
    for (size_t size = 1; size < 1000000; size *= 100) { /* in the buffer, and past it */
        AtomicFile file;
        Error err = {""};
        check_ok(atomic_open(&file, path, &err), &err);
        int full = open("/dev/full", O_WRONLY);
        cr_assert(dup2(full, fileno(file.stream)) >= 0);
        close(full);
        for (size_t i = 0; i < size; i++) fputc('x', file.stream);
        cr_expect(atomic_commit(&file, &err) == -1, "%zu bytes fitted on a full disk", size);
        cr_expect(strstr(err.text, "No space left") && strstr(err.text, path), "%s", err.text);
        expect_content(path, "old");
        cr_expect(scratch_count(&scratch) == 1, "a temporary file was left");
    }
}

Test(atomic, size_limit_keeps_the_old_file) {
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, "a", "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 10000, .rlim_max = RLIM_INFINITY};
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    AtomicFile file;
    check_ok(atomic_open(&file, path, &err), &err);
    for (int i = 0; i < 20000; i++) fputc('x', file.stream);
    cr_expect(atomic_commit(&file, &err) == -1);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_expect(strstr(err.text, "File too large"), "%s", err.text);
    expect_content(path, "old");
    cr_expect(scratch_count(&scratch) == 1, "a temporary file was left");
}

/* ---- directories ---- */

Test(directories, are_made_with_their_parents) {
    Scratch scratch = scratch_open();
    char path[400];
    snprintf(path, sizeof path, "%s/a/b//c/", scratch.directory);
    for (int again = 0; again < 2; again++) check_ok(make_directories(path, &err), &err);
    struct stat info;
    cr_expect(stat(path, &info) == 0 && S_ISDIR(info.st_mode), "%s", path);
    cr_expect(make_directories("", &err) == 0);
    cr_expect(make_directories(".", &err) == 0);
    cr_expect_str_eq(file_path("a/b", "c.json").text, "a/b/c.json");

    scratch_write(&scratch, "file", "", 0);
    snprintf(path, sizeof path, "%s/file/d", scratch.directory);
    cr_expect(make_directories(path, &err) == -1);
    cr_expect(strstr(err.text, "Not a directory"), "%s", err.text);
    for (const char *const *name = (const char *[]){"a/b/c", "a/b", "a", NULL}; *name; name++)
        cr_assert(rmdir(scratch_path(&scratch, *name)) == 0);
}

/* ---- the project's own paths ---- */

Test(project, is_found_from_its_folders) {
    Scratch scratch = scratch_open();
    char path[300], shorter[8];
    snprintf(path, sizeof path, "%s/02_causal/figures", scratch.directory);
    cr_assert_eq(make_directories(path, &err), 0, "%s", err.text);
    const struct {
        const char *here, *path, *want;
    } cases[] = {
        {"", "02_causal/figures/x.csv", "02_causal/figures/x.csv"},
        {"02_causal", "02_causal/figures/x.csv", "../02_causal/figures/x.csv"},
        {"02_causal/figures", "02_causal/figures/x.csv", "../../02_causal/figures/x.csv"},
        {"02_causal", "figures/x.csv", "figures/x.csv"},     /* the user's, not the project's */
        {"02_causal", "03_absent/x.csv", "03_absent/x.csv"}, /* nowhere: as it is */
        {"02_causal", "02.csv", "02.csv"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[300];
        snprintf(path, sizeof path, "%s/%s", scratch.directory, cases[i].here);
        cr_assert_eq(chdir(path), 0);
        cr_assert_eq(project_path(found, sizeof found, cases[i].path, &err), 0, "%s", err.text);
        cr_assert_str_eq(found, cases[i].want);
    }
    cr_assert_eq(project_path(shorter, sizeof shorter, "02_causal/x.csv", &err), -1);
    cr_assert(strstr(err.text, "02_causal/x.csv"), "%s", err.text);
    cr_assert_eq(chdir("/"), 0);
    cr_assert(rmdir(scratch_path(&scratch, "02_causal/figures")) == 0);
    cr_assert(rmdir(scratch_path(&scratch, "02_causal")) == 0);
}

/* ---- tables that are there already ---- */

#define TABLE "# command: deepseek train\n# seed: 1\n"

/* A table of ours makes room; what else has the name stays, and so do rows under other columns. */
Test(csv, replaces_only_its_own) {
    static const struct {
        const char *there, *opened, *continued; /* messages; NULL: it works */
    } cases[] = {
        {"", NULL, NULL},
        {TABLE, NULL, NULL}, /* killed before there were columns */
        {TABLE "step,loss\n1,2\n2,3\n3,4\n4", NULL, NULL},
        {TABLE "step,accuracy\n1,2\n", NULL, "has other columns"},
        {"my notes", "no table of this program", "no table of this program"},
        {"my notes\n1,2\n", "no table of this program", "has other columns"},
        {"# command", "no table of this program", "no table of this program"},
    };
    Scratch scratch = scratch_open();
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof cases[0]); i++) {
        const char *there = cases[i / 2].there;
        const char *says = i & 1 ? cases[i / 2].continued : cases[i / 2].opened;
        const char *path = strdup(scratch_write(&scratch, "rows.csv", there, strlen(there)));
        Csv csv;
        Error err = {""};
        int status = i & 1 ? csv_continue(&csv, path, "step,loss", 2, "cpu", 1, &err)
                           : csv_open(&csv, path, "step,loss", "cpu", 1, &err);
        size_t bytes;
        cr_assert(status == (says ? -1 : 0), "case %zu: %s", i, err.text);
        if (says)
            cr_assert(strstr(err.text, says) && !strcmp(file_text(path, &bytes), there),
                      "case %zu: %s", i, err.text);
        else
            cr_assert(csv_close(&csv, &err) == 0 && strstr(file_text(path, &bytes), "step,loss\n"));
    }
}

/* ---- JSON ---- */

Test(json, refuses_what_cjson_lets_pass) {
    const struct {
        const char *text, *message;
    } cases[] = {
        {"", "not JSON at line 1, byte 1"},
        {"{", "not JSON"},
        {"{}x", "not JSON at line 1, byte 3"},
        {"{\n \"a\": ]}", "not JSON at line 2, byte 7"},
        {"{\"a\\u0000b\": 1}", "zero character"},
        {"{\"\xff\": 1}", "invalid UTF-8 at line 1, byte 3"},
        {"{\"\xc0\x80\": 1}", "invalid UTF-8"},     /* an overlong zero */
        {"{\"\xed\xa0\x80\": 1}", "invalid UTF-8"}, /* a surrogate */
        {"{\"\xf4\x90\x80\x80\": 1}", "invalid UTF-8"},
        {"{\"\xe4\xb8", "invalid UTF-8"},
        {"{\"a\001\": 1}", "control character"},
        {"{\"\\ud800\": 1}", "not JSON"}, /* half a pair */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {""};
        cJSON *json = json_parse("file.json", cases[i].text, strlen(cases[i].text), &err);
        cr_expect_null(json, "accepted: %s", cases[i].text);
        cr_expect(strstr(err.text, cases[i].message) && strstr(err.text, "file.json"),
                  "'%s' should say '%s'", err.text, cases[i].message);
    }
    const char *good = "{\"a\\\\u0000\": \"\xf0\x9f\x98\x80 \\ud83d\\ude00\"} ";
    cJSON *json = json_parse("good", good, strlen(good), NULL);
    cr_assert_not_null(json);
    cr_expect_str_eq(json->child->string, "a\\u0000");
    cr_expect_str_eq(json->child->valuestring, "\xf0\x9f\x98\x80 \xf0\x9f\x98\x80");
}

Test(json, integers_are_exact) {
    const struct {
        const char *text;
        bool good;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-7", true, -7},
        {"1e3", true, 1000},
        {"9007199254740991", true, 9007199254740991},
        {"9007199254740992", false, 0}, /* 2^53: so may be 2^53 + 1 have been */
        {"-9007199254740992", false, 0},
        {"18446744073709551616", false, 0},
        {"1e400", false, 0},
        {"1.5", false, 0},
        {"\"1\"", false, 0},
        {"null", false, 0},
        {"[1]", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *json = json_parse("text", cases[i].text, strlen(cases[i].text), NULL);
        int64_t value = 0;
        bool good = json_integer(json, INT64_MIN, INT64_MAX, &value);
        cr_expect(good == cases[i].good && value == cases[i].value, "%s", cases[i].text);
        cJSON_Delete(json);
    }
    int64_t value;
    cr_expect(!json_integer(NULL, 0, 1, &value));
}

/* As Python reads it: in every object, within lists too, and the order of the others stays. */
Test(json, keeps_the_last_of_equal_keys) {
    static const struct {
        const char *text, *kept, *name;
    } cases[] = {
        {"{\"a\":1,\"b\":2,\"A\":3,\"b\":4}", "{\"a\":1,\"A\":3,\"b\":4}", "b"},
        {"{\"a\":{\"x\":1,\"x\":2},\"a\":{\"x\":3}}", "{\"a\":{\"x\":3}}", "a"},
        {"[{\"x\":[{\"y\":1,\"y\":[],\"y\":2}]}]", "[{\"x\":[{\"y\":2}]}]", "y"},
        {"{\"a\":[1,1],\"b\":{\"a\":1}}", "{\"a\":[1,1],\"b\":{\"a\":1}}", NULL},
        {"3", "3", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *json = json_parse("text", cases[i].text, strlen(cases[i].text), NULL);
        NameText name = {""};
        cr_expect(json_keep_last(json, &name) == (cases[i].name != NULL), "%s", cases[i].text);
        cr_expect_str_eq(name.text, cases[i].name ? cases[i].name : "");
        char *printed = cJSON_PrintUnformatted(json);
        cr_expect_str_eq(printed, cases[i].kept);
        cJSON_free(printed);
        cJSON_Delete(json);
    }
}

Test(json, finds_duplicates) {
    cJSON *json = json_parse("text", "{\"a\":1,\"b\":2,\"A\":3,\"b\":4}", 25, NULL);
    cr_assert_not_null(json);
    cr_expect_str_eq(json_duplicate(json), "b");
    cJSON_DeleteItemFromObjectCaseSensitive(json, "b");
    cr_expect_null(json_duplicate(json));
    cJSON_Delete(json);
    cr_expect_str_eq(name_text("a\nb\x1b[0m").text, "a?b?[0m");
    char many[200];
    memset(many, 'x', sizeof many);
    many[sizeof many - 1] = 0;
    cr_expect(strlen(name_text(many).text) == 83);
}
