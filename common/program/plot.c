/*
 * Charts as files: gnuplot, told where to find its data by variables. plot_text.c draws the ones
 * for the terminal.
 *
 * It runs once for each kind of file; what it leaves half-drawn is removed.
 */
#include "common/program/plot.h"

#include "common/files/files.h"
#include "common/files/machine.h"
#include "common/files/process.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 512 };

/* name = 'text'; in gnuplot's language, where a quote inside single quotes is doubled. program has
 * room for the longest paths, should they be nothing but quotes. */
static void assign(char *program, size_t size, const char *name, const char *text) {
    size_t used = strlen(program);
    CHECK(used + strlen(name) + 2 * strlen(text) + 8 < size, "%s does not fit", name);
    used += (size_t)sprintf(program + used, "%s = '", name);
    for (; *text; text++) {
        if (*text == '\'') program[used++] = '\'';
        program[used++] = *text;
    }
    strcpy(program + used, "'; ");
}

/* A path as gnuplot must see it: at the beginning of one, "<" and "|" would be a command. */
static void plain_path(char path[PATH_SIZE + 2], const char *name) {
    snprintf(path, PATH_SIZE + 2, "%s%s", *name == '/' ? "" : "./", name);
}

/* One picture. kind: "svg" or "png". */
static int draw(const char *script, const char *csv_path, const char *out_path, const char *kind,
                Error *err) {
    char program[5 * PATH_SIZE] = "", style[PATH_SIZE + 64], output[900], path[PATH_SIZE + 2];
    plain_path(path, csv_path);
    assign(program, sizeof program, "data", path);
    plain_path(path, out_path);
    assign(program, sizeof program, "out", path);
    assign(program, sizeof program, "kind", kind);
    /* script is CHAPTER/figures/NAME.gp, so its own place says where common/ is, wherever the
     * program was started. */
    const char *slash = strrchr(script, '/');
    snprintf(style, sizeof style, "%.*s/../../common/program/figures/style.gp",
             slash ? (int)(slash - script) : 1, slash ? script : ".");

    const char *const gnuplot[] = {"gnuplot", "-e", program, style, script, NULL};
    int status = process_run(gnuplot, output, sizeof output, err);
    if (status == PROCESS_MISSING) return 1;
    if (status != 0) {
        char half[PATH_SIZE + 8];
        snprintf(half, sizeof half, "%s.%s", out_path, kind);
        unlink(half);
        size_t length = strlen(output);
        while (length > 0 && output[length - 1] == '\n') output[--length] = 0;
        if (status > 0) error_set(err, "gnuplot %s: %s", script, output);
        return -1;
    }
    return 0;
}

/* Where the program was started elsewhere: one of the folders above the program's own file is the
 * repository that it was built in. False: none has the script. */
static bool above_program(char script[PATH_SIZE], const char *script_path) {
    char place[PATH_SIZE];
    ssize_t length = readlink("/proc/self/exe", place, sizeof place - 1);
    for (place[length > 0 ? length : 0] = 0; strrchr(place, '/');) {
        *strrchr(place, '/') = 0;
        PathText found = file_path(place, script_path);
        if (strlen(found.text) >= PATH_SIZE || access(found.text, R_OK)) continue;
        strcpy(script, found.text);
        return true;
    }
    return false;
}

int plot_script(const char *script_path, const char *csv_path, const char *out_path, Error *err) {
    char script[PATH_SIZE], csv[PATH_SIZE], out[PATH_SIZE];
    if (project_path(script, sizeof script, script_path, err) ||
        project_path(csv, sizeof csv, csv_path, err) ||
        project_path(out, sizeof out, out_path, err))
        return -1;
    if (access(script, R_OK) != 0 && !above_program(script, script_path))
        return error_set(err,
                         "no figure script %s here, or in a folder above the program: start it in "
                         "the repository's root",
                         script);
    if (make_directories_above(out, err)) return -1;
    int status = draw(script, csv, out, "svg", err);
    return status ? status : draw(script, csv, out, "png", err);
}

void plot_or_explain(const char *figure, const char *csv_path, const char *out_path) {
    Error err;
    char script[PATH_SIZE], out[PATH_SIZE];
    const char *slash = strrchr(figure, '/');
    snprintf(script, sizeof script, "%s.gp", figure);
    snprintf(out, sizeof out, "%.*s/out%s", (int)(slash - figure), figure, slash);
    if (!out_path) out_path = out;
    int status = plot_script(script, csv_path, out_path, &err);
    if (status == 0)
        printf("chart: %s.svg (and .png)\n", out_path);
    else if (status == 1)
        printf("chart: none, for gnuplot is missing (sudo apt install gnuplot-nox)\n"
               "   the numbers are in %s\n",
               csv_path);
    else
        printf("chart: none: %s\n", err.text);
}

Csv figure_open(const Context *ctx, const char *csv_path, const char *columns) {
    Csv csv;
    Error err;
    if (csv_open(&csv, csv_path, columns, device_describe(ctx).text, ctx->rng.seed, &err))
        fatal("%s", err.text);
    return csv;
}

void figure_close(Csv *csv, const char *figure) {
    Error err;
    if (csv_close(csv, &err)) fatal("%s", err.text);
    if (figure) plot_or_explain(figure, csv->path, NULL);
}
