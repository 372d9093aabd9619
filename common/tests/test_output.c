/*
 * Where a program's output goes: a place that does not take it is an error, and one that can be
 * known before the work is found before it.
 */
#include "common/program/options.h"
#include "common/tests/test_process.h"

#include <fcntl.h>
#include <stdlib.h>

/* A program that reads its flags, opens its device and prints a line, and ends with `status`. */
static Output program(const char *csv, void (*before)(void), int status) {
    Process p;
    if (process_fork(&p, SIGKILL)) {
        char *argv[] = {"program", csv ? "--csv" : NULL, (char *)csv, NULL};
        CommonOptions common = {0};
        const Option flags[] = {OPT_CSV(&common), OPT_COMMON(&common), OPT_END};
        Context ctx;
        if (before) before();
        options_parse(csv ? 3 : 1, argv, "A test.", flags);
        options_open(&common, &ctx);
        FILE *first = fopen("/dev/null", "r"); /* must not become stdout */
        if (fileno(first) <= STDERR_FILENO) _exit(99);
        printf("it worked\n");
        context_free(&ctx);
        exit(status);
    }
    return process_end(&p);
}

static void full_disk(void) { dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); }
static void closed(void) { close(STDOUT_FILENO); }

Test(output, goes_where_it_is_sent) {
    Output o = program(NULL, NULL, 0);
    expect(&o, 0, "it worked");
}

Test(output, that_cannot_be_written_is_an_error) {
    Output o = program(NULL, full_disk, 0);
    expect(&o, 1, "cannot write what is to be printed: No space left on device");
    o = program(NULL, full_disk, 3); /* a program that failed has said why */
    expect(&o, 3, "");
}

/* Whoever has closed stdout wants none of it; nor shall a file get it. */
Test(output, that_is_not_wanted_goes_nowhere) {
    Output o = program(NULL, closed, 0);
    expect(&o, 0, "");
    cr_expect(!*o.out, "%s", o.out);
}

Test(output, bad_csv_is_found_before_the_work) {
    static const char *const places[] = {"/tmp", "/nowhere/at/all.csv", "/dev/null/x.csv"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        Output o = program(places[i], NULL, 0);
        expect(&o, 1, places[i]);
        cr_expect(!*o.out, "%s: there is output already: %s", places[i], o.out);
    }
}
