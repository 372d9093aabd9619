/*
 * Sets of files that are replaced together: whatever stops it, a reader meets the old set or the
 * new one, and nobody else's file is touched.
 */
#include "common/files/files.h"
#include "common/files/replacement.h"
#include "common/tests/test_scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

static Error err;

/* The sets of these tests are called set-... */
static bool owned(const char *name) { return !strncmp(name, "set-", 4); }

static void ok(int status) { cr_assert(status == 0, "%s", err.text); }

static void put(const char *directory, const char *name, const char *text) {
    FILE *file = fopen(path_in(directory, name), "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Every name in the folder with its text, in order: "set-a=1 notes=mine ". */
static const char *content(const char *directory) {
    static char all[1000];
    struct dirent **names;
    int count = scandir(directory, &names, NULL, alphasort);
    all[0] = 0;
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] == '.') continue;
        struct stat info;
        const char *path = path_in(directory, names[i]->d_name);
        size_t bytes;
        bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
        strcat(strcat(all, names[i]->d_name), folder ? "/ " : "=");
        if (!folder) strcat(strcat(all, file_text(path, &bytes)), " ");
    }
    return all;
}

static void is(const char *directory, const char *expected) {
    cr_assert_str_eq(content(directory), expected);
}

/* An old set of three, and a file of the user's. */
static Scratch old_set(void) {
    Scratch scratch = scratch_open();
    put(scratch.directory, "set-a", "old");
    put(scratch.directory, "set-b", "old");
    put(scratch.directory, "set-c", "same");
    put(scratch.directory, "notes.tmp", "mine");
    return scratch;
}
#define OLD   "notes.tmp=mine set-a=old set-b=old set-c=same "
#define FRESH "notes.tmp=mine set-a=new set-c=same set-d=new "

/* A new one, of which nothing is moved yet. */
static void write_new(Replacement *r, const char *directory) {
    ok(replacement_open(r, directory, &err));
    put(r->staging, "set-a", "new");
    put(r->staging, "set-c", "same");
    put(r->staging, "set-d", "new");
}

Test(replacement, all_or_nothing) {
    Scratch scratch = old_set();
    Replacement r;
    write_new(&r, scratch.directory);
    replacement_abandon(&r);
    is(scratch.directory, OLD);
    write_new(&r, scratch.directory);
    ok(replacement_commit(&r, owned, &err));
    replacement_abandon(&r); /* harmless */
    is(scratch.directory, FRESH);
    write_new(&r, scratch.directory); /* the same again: nothing moves, nothing goes */
    ok(replacement_commit(&r, owned, &err));
    is(scratch.directory, FRESH);
    const char *deep = path_in(scratch.directory, "new/folder");
    write_new(&r, deep);
    ok(replacement_commit(&r, owned, &err));
    is(deep, "set-a=new set-c=same set-d=new ");
}

/* rename() does nothing where both names are of one file, and would leave the new one behind. */
Test(replacement, a_second_name_of_the_file_that_is_there) {
    Scratch scratch = old_set();
    Replacement r;
    ok(replacement_open(&r, scratch.directory, &err));
    cr_assert(link(path_in(scratch.directory, "set-c"), path_in(r.staging, "set-c")) == 0);
    put(r.staging, "set-a", "new");
    ok(replacement_commit(&r, owned, &err));
    replacement_abandon(&r);
    is(scratch.directory, "notes.tmp=mine set-a=new set-c=same ");
}

/* A kill in the middle of moving has moved any of the four: set-a, set-c and set-d, and taken away
 * set-b. Whoever opens the folder finishes it, and may be killed again. */
Test(replacement, goes_on_after_a_kill_between_any_two_moves) {
    for (int moved = 0; moved < 16; moved++) {
        Scratch scratch = old_set();
        const char *directory = scratch.directory;
        mkdir(path_in(directory, "deepseek.incoming"), 0777);
        static const char *const names[] = {"set-a", "set-b", "set-c", "set-d"};
        for (int i = 0; i < 4; i++) {
            bool goes = i == 1;
            if (moved >> i & 1)
                goes ? (void)unlink(path_in(directory, names[i]))
                     : put(directory, names[i], i == 2 ? "same" : "new");
            else
                put(path_in(directory, "deepseek.incoming"), names[i],
                    goes     ? ""
                    : i == 2 ? "same"
                             : "new");
        }
        ok(replacement_finish(directory, &err));
        is(directory, FRESH);
        ok(replacement_finish(directory, &err)); /* nothing is left to do */
        is(directory, FRESH);
    }
}

/* Real kills, at moments spread over a whole replacement. */
Test(replacement, is_one_or_the_other_after_kill_9) {
    int old = 0, new = 0;
    for (int i = 0; i < 60; i++) {
        Scratch scratch = old_set();
        pid_t child = fork();
        cr_assert(child >= 0);
        if (child == 0) {
            Replacement r;
            write_new(&r, scratch.directory);
            replacement_commit(&r, owned, &err);
            _exit(0);
        }
        usleep((useconds_t)(40 * i));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        ok(replacement_finish(scratch.directory, &err));
        replacement_clear(scratch.directory, owned);
        const char *is = content(scratch.directory);
        old += !strcmp(is, OLD), new += !strcmp(is, FRESH);
        cr_assert_eq(old + new, i + 1, "%s", is);
    }
    cr_assert(old > 0, "no kill came early enough");
}

Test(replacement, waits_for_who_is_still_at_it) {
    Scratch scratch = old_set();
    const char *directory = scratch.directory;
    mkdir(path_in(directory, "deepseek.incoming"), 0777);
    put(path_in(directory, "deepseek.incoming"), "set-a", "new");
    int ready[2];
    cr_assert(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) { /* holds the folder, and finishes a little later */
        int lock = folder_lock(directory, &err);
        (void)!write(ready[1], "", 1);
        usleep(100000);
        rename(path_in(directory, "deepseek.incoming/set-a"), path_in(directory, "set-a"));
        rmdir(path_in(directory, "deepseek.incoming"));
        _exit(lock < 0);
    }
    char byte;
    cr_assert(read(ready[0], &byte, 1) == 1);
    cr_assert(folder_lock(directory, &err) == FOLDER_BUSY &&
              strstr(err.text, "another process is writing into"));
    ok(replacement_finish(directory, &err));
    is(directory, "notes.tmp=mine set-a=new set-b=old set-c=same ");
    int status;
    waitpid(child, &status, 0);
    cr_assert(status == 0);
}

/* What cannot be moved is not lost, and said. */
Test(replacement, says_where_the_new_files_wait) {
    Scratch scratch = old_set();
    mkdir(path_in(scratch.directory, "set-d"), 0777); /* a folder in the way */
    put(scratch.directory, "set-d/file", "mine");
    Replacement r;
    write_new(&r, scratch.directory);
    cr_assert(replacement_commit(&r, owned, &err) == -1);
    cr_assert(strstr(err.text, "deepseek.incoming/set-d") &&
                  strstr(err.text, "The new files are whole"),
              "%s", err.text);
    cr_assert(access(path_in(scratch.directory, "deepseek.incoming/set-d"), F_OK) == 0);
    unlink(path_in(scratch.directory, "set-d/file"));
    rmdir(path_in(scratch.directory, "set-d"));
    ok(replacement_finish(scratch.directory, &err));
    is(scratch.directory, FRESH);
}

Test(replacement, clears_its_own_leavings_only) {
    Scratch scratch = old_set();
    const char *directory = scratch.directory;
    mkdir(path_in(directory, "deepseek.incoming.77-0.tmp"), 0777);
    put(directory, "deepseek.incoming.77-0.tmp/set-a", "half");
    mkdir(path_in(directory, "deepseek.incoming.77-0.tmp/incoming.77-0.tmp"),
          0777); /* one within one */
    put(directory, "deepseek.incoming.77-0.tmp/incoming.77-0.tmp/set-a", "half");
    mkdir(path_in(directory, "deepseek.incoming.notes.tmp"), 0777);
    put(directory, "set-a.77-0.tmp", "half");
    static const char *const mine[] = {"set-a.backup.tmp", "set-a.tmp",     "set-a.1-.tmp",
                                       "notes.77-0.tmp",   "set-a.7-0.tmq", ".7-0.tmp"};
    for (int i = 0; i < 6; i++) put(directory, mine[i], "mine");
    replacement_clear(directory, owned);
    is(directory, "deepseek.incoming.notes.tmp/ notes.77-0.tmp=mine notes.tmp=mine set-a=old "
                  "set-a.1-.tmp=mine set-a.7-0.tmq=mine set-a.backup.tmp=mine set-a.tmp=mine "
                  "set-b=old set-c=same ");
    cr_assert(access(path_in(directory, ".7-0.tmp"), F_OK) == 0);
}

/* ---- a file that is shortened while it is mapped ---- */

Test(file_map, a_shortened_file_is_named) {
    Scratch scratch = scratch_open();
    char *bytes = calloc(1, 100000);
    const char *path = strdup(scratch_write(&scratch, "text", bytes, 100000));
    int out[2];
    cr_assert(pipe(out) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], 2);
        MappedFile first, file;
        if (file_map(&first, path, &err) || file_map(&file, path, &err)) _exit(3);
        file_unmap(&first); /* its place in the list is free, and the next one takes it */
        if (file_map(&first, path, &err) || truncate(path, 100)) _exit(3);
        volatile char sum = 0;
        for (size_t i = 0; i < file.size; i += 1000) sum += file.data[i];
        _exit(2);
    }
    close(out[1]);
    char text[1000] = "";
    size_t length = 0; /* the message comes in pieces */
    for (ssize_t got; (got = read(out[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    int status;
    waitpid(child, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %d", status);
    cr_assert(strstr(text, path) && strstr(text, "has become shorter"), "%s", text);
}
