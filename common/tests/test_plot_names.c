/*
 * Charts of files with any name: to gnuplot "<" and "|" at the beginning of one are a shell
 * command, and a quote ends a text; here they are letters.
 */
#include "common/files/files.h"
#include "common/files/process.h"
#include "common/program/plot.h"
#include "common/tests/test_scratch.h"

#include <sys/stat.h>

/* DIRECTORY/chapter/figures/chart.gp, beside our common/. */
static char *figure_script(const Scratch *scratch) {
    char common[300];
    cr_assert(realpath("common", common) || realpath("../common", common), "not in the repository");
    cr_assert(symlink(common, path_in(scratch->directory, "common")) == 0);
    mkdir(path_in(scratch->directory, "chapter"), 0777);
    mkdir(path_in(scratch->directory, "chapter/figures"), 0777);
    char *script = (char *)path_in(scratch->directory, "chapter/figures/chart.gp");
    FILE *file = fopen(script, "w");
    cr_assert(file && fputs("plot data using 'T':'ms' with lines\n", file) >= 0);
    fclose(file);
    return script;
}

Test(plot, a_name_is_no_command) {
    char output[64], quotes[2][400];
    const char *const gnuplot[] = {"gnuplot", "--version", NULL};
    if (process_run(gnuplot, output, sizeof output, NULL)) cr_skip_test("no gnuplot");
    Scratch scratch = scratch_open();
    char *script = figure_script(&scratch);
    for (int i = 0; i < 2; i++) { /* as long as can be, which gnuplot may find too long */
        memset(quotes[i], '\'', 390);
        quotes[i][195] = '/';
        strcpy(quotes[i] + 390, i ? "/o" : ".csv");
    }
    cr_assert(chdir(scratch.directory) == 0);
    const char *const names[][2] = {{"< touch ran #.csv", "| touch ran #"},
                                    {"|touch ran", "<touch ran"},
                                    {"-", "`touch ran`"},
                                    {"+", "$(touch ran)/'.system('touch ran').'"},
                                    {quotes[0], quotes[1]}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Csv csv;
        Error err = {""};
        char picture[500];
        cr_assert(make_directories_above(names[i][0], &err) == 0, "%s", err.text);
        cr_assert(csv_open(&csv, names[i][0], "T,ms", "cpu", 1, &err) == 0, "%s", err.text);
        csv_row(&csv, "1,2");
        csv_row(&csv, "2,3");
        cr_assert(csv_close(&csv, &err) == 0);
        int status = plot_script(script, names[i][0], names[i][1], &err);
        snprintf(picture, sizeof picture, "%s.svg", names[i][1]);
        cr_assert(i == 4 || (status == 0 && access(picture, F_OK) == 0), "%zu: %s", i, err.text);
        cr_assert(access("ran", F_OK), "a command ran, for %s and %s", names[i][0], names[i][1]);
    }
}
