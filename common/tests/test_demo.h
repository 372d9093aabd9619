/*
 * A chapter's demo as its readers meet it: it ends well, and no line that it prints is wider than
 * a terminal.
 *
 *     demo_fits("--steps 3")
 *
 * The Makefile builds a part's demo before its test_demo. gnuplot is hidden from it (its charts
 * take longer than all the rest).
 */
#ifndef TEST_DEMO_H
#define TEST_DEMO_H

#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TERMINAL_COLUMNS = 80 };

/* The first line of text that is wider; NULL: none. Cut off behind itself. */
static inline char *too_wide(char *text) {
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        int columns = 0;
        for (const char *c = line; *c; c++) columns += ((unsigned char)*c & 0xC0) != 0x80;
        if (columns > TERMINAL_COLUMNS) return line;
    }
    return NULL;
}

/* Runs the demo in a folder of its own, with a CSV file there. */
static inline char *demo_output(const char *arguments) {
    enum { MOST = 1 << 20 };
    Scratch scratch = scratch_open();
    char program[500], command[2000], *text = must_alloc(MOST, 1);
    program_path(program, sizeof program, "demo");
    snprintf(command, sizeof command, "PATH=/nowhere %s --csv %s/demo.csv %s </dev/null 2>&1",
             program, scratch.directory, arguments);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    text[fread(text, 1, MOST - 1, pipe)] = 0;
    int status = pclose(pipe);
    cr_assert_eq(status, 0, "%s ends with %d:\n%s", command, status, text);
    return text;
}

static inline void demo_fits(const char *arguments) {
    char *wide = too_wide(demo_output(arguments));
    cr_assert_null(wide, "wider than %d columns: %s", (int)TERMINAL_COLUMNS, wide);
}

#endif
