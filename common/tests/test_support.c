/*
 * Options, CSV files, progress, charts, other programs: what demos and benches stand on.
 *
 * Nothing here looks at a clock's value: only at counts, texts and exit codes.
 */
#include "common/files/csv.h"
#include "common/files/machine.h"
#include "common/files/process.h"
#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"
#include "common/program/testing.h"

#include <criterion/redirect.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A fresh directory; the tests that use it clean up behind themselves. */
static char *scratch(void) {
    static char path[] = "/tmp/test_support_XXXXXX";
    cr_assert(mkdtemp(path) != NULL);
    return path;
}

static void read_text(const char *path, char *text, size_t size) {
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "%s is not there", path);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
}

/* ---- options ---- */

typedef struct TestOptions {
    CommonOptions common;
    int64_t tokens;
    float rate;
    enum { CAT, DOG } animal;
    bool loud;
    StringList also;
    OptionText texts[4];
} TestOptions;

/* Parses a command line of one or two words after the program's name. */
static TestOptions parsed(const char *first, const char *second) {
    static const char *const animals[] = {"cat", "dog", NULL};
    static TestOptions options;
    options = (TestOptions){.tokens = 4, .rate = 0.1f, .animal = DOG};
    TestOptions *o = &options;
    const Option more[] = {OPT_LIST("also", 0, "TEXT", &o->also, 1, "More, once"), OPT_END};
    const Option flags[] = {
        OPT_INT("tokens", 't', "N", &o->tokens, 1, 64, "Tokens", .setting = true),
        OPT_HEAD("More:"),
        OPT_FLOAT("rate", 'r', "X", &o->rate, 0, 1, "Rate"),
        OPT_CHOICE("animal", 0, "A", &o->animal, animals, "Animal"),
        OPT_FLAG("loud", 0, &o->loud, "Loud"),
        OPT_TABLE(more),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    char *argv[] = {"program", (char *)first, (char *)second, NULL};
    int argc = 1 + (first != NULL) + (second != NULL);
    options_parse(argc, argv, "A test.", flags);
    o->texts[0] = option_text(&flags[0]), o->texts[1] = option_text(&flags[2]);
    o->texts[2] = option_text(&flags[3]), o->texts[3] = option_text(&flags[4]);
    return options;
}

Test(options, defaults) {
    TestOptions options = parsed(NULL, NULL);
    cr_assert_eq(options.common.device, CPU);
    cr_assert_eq(options.common.dtype, F32);
    cr_assert_eq(options.common.seed, 1);
    cr_assert(options.common.threads >= 1);
    cr_assert_null(options.common.csv);
    cr_assert_eq(options.tokens, 4);
}

Test(options, values) {
    cr_assert_eq(parsed("--device", "cuda").common.device, CUDA);
    cr_assert_eq(parsed("--dtype=bf16", NULL).common.dtype, BF16);
    cr_assert_eq(parsed("--seed=18446744073709551615", NULL).common.seed, UINT64_MAX);
    cr_assert_eq(parsed("--threads=1", NULL).common.threads, 1);
    cr_assert_str_eq(parsed("--csv", "a.csv").common.csv, "a.csv");
    cr_assert_eq(parsed("-t", "64").tokens, 64);
    cr_assert_eq(parsed("--rate=1e-3", NULL).rate, 1e-3f);
    cr_assert_eq(parsed("--animal", "cat").animal, CAT);
    cr_assert(parsed("--loud", NULL).loud);
    cr_assert_str_eq(parsed("--also", "b").also.items[0], "b");
}

/* As one would type them: a float in no more digits than tell it from others. */
Test(options, values_as_text) {
    TestOptions options = parsed("--rate=0.003", "--loud");
    cr_assert_str_eq(options.texts[0].text, "4");
    cr_assert_str_eq(options.texts[1].text, "0.003");
    cr_assert_str_eq(options.texts[2].text, "dog");
    cr_assert_str_eq(options.texts[3].text, "yes");
}

/* --help has every row, in the table's order: its flag, what it takes, its help, and what holds
 * without it. No line is wider than a terminal. */
Test(options, help_is_the_table) {
    char text[8000];
    FILE *file = tmpfile();
    pid_t child = fork();
    if (child == 0) {
        dup2(fileno(file), 1);
        parsed("--help", NULL);
        _exit(1); /* not reached: --help ends the program */
    }
    int status;
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    static const char *const lines[] = {
        "-t, --tokens=N             Tokens (default 4)",
        "More:",
        "-r, --rate=X               Rate (default 0.1)",
        "--animal=A             Animal (default dog)",
        "--loud                 Loud\n",
        "--also=TEXT            More, once\n",
        "--csv=FILE",
        "In every program:",
        "--seed=N               Seed of all random numbers (default 1)",
        "--threads=N            CPU threads (default 0: one per core)",
        "--device=cpu|cuda      Where to compute (default cpu)",
        "--dtype=f32|bf16"};
    const char *at = text;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *found = strstr(at, lines[i]);
        cr_expect(found, "'%s' is not in what follows\n%s", lines[i], at);
        at = found ? found : at;
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        cr_expect(strlen(line) < 80, "wider than a terminal: %s", line);
    fclose(file);
}

/* Each of these must end the process with 2; redirected so that a passing run stays quiet. */
#define BAD_OPTION(name, ...)             \
    Test(options, name, .exit_code = 2) { \
        cr_redirect_stderr();             \
        parsed(__VA_ARGS__);              \
    }
BAD_OPTION(too_large, "--tokens", "65")
BAD_OPTION(too_small, "--tokens", "0")
BAD_OPTION(beyond_long, "--tokens", "99999999999999999999")
BAD_OPTION(not_a_number, "--tokens", "4x")
BAD_OPTION(empty_number, "--tokens=", NULL)
BAD_OPTION(rate_nan, "--rate", "nan")
BAD_OPTION(rate_overflow, "--rate", "1e999")
BAD_OPTION(seed_negative, "--seed", "-1")
BAD_OPTION(seed_too_long, "--seed", "18446744073709551616")
BAD_OPTION(device_unknown, "--device", "gpu")
BAD_OPTION(dtype_unknown, "--dtype", "fp8")
BAD_OPTION(threads_negative, "--threads", "-3")
BAD_OPTION(flag_unknown, "--bogus", NULL)
BAD_OPTION(value_missing, "--seed", NULL)
BAD_OPTION(word_too_many, "word", NULL)
BAD_OPTION(rate_too_large, "--rate", "1.5")
BAD_OPTION(choice_unknown, "--animal", "cow")
BAD_OPTION(flag_with_a_value, "--loud=yes", NULL)
BAD_OPTION(list_too_long, "--also=a", "--also=b")
BAD_OPTION(file_without_a_name, "--csv", "")

/* BF16 on the CPU is refused by the context, with 1: the command line was well-formed. */
Test(options, bf16_needs_a_gpu, .exit_code = 1) {
    cr_redirect_stderr();
    TestOptions options = parsed("--dtype", "bf16");
    Context ctx;
    options_open(&options.common, &ctx);
}

/* ---- CSV ---- */

Test(csv, head_and_rows) {
    char path[256], text[4096];
    Csv csv;
    char *directory = scratch();
    snprintf(path, sizeof path, "%s/new/rows.csv", directory);
    cr_assert_eq(csv_open(&csv, path, "T,milliseconds", "cpu", 7, &err), -1);
    path[strlen(path) - strlen("/rows.csv")] = 0;
    cr_assert(strstr(err.text, path) && access(path, F_OK), "%s", err.text);
    cr_assert_eq(mkdir(path, 0777), 0);
    strcat(path, "/rows.csv");
    cr_assert_eq(csv_open(&csv, path, "T,milliseconds", "cpu", 7, &err), 0, "%s", err.text);
    csv_row(&csv, "%d,%g", 128, 0.5);
    read_text(path, text, sizeof text); /* before it is closed: whole rows are there already */
    cr_assert(strstr(text, "\nT,milliseconds\n128,0.5\n"), "%s", text);
    csv_row(&csv, "%d,%g", 256, 1.25);
    cr_assert_eq(csv_close(&csv, &err), 0, "%s", err.text);

    read_text(path, text, sizeof text);
    const char *const expected[] = {"# command: ",   "\n# commit: ", "\n# compiler: ",
                                    "\n# cpu: ",     "\n# blas: ",   "\n# device: cpu\n",
                                    "\n# seed: 7\n", "\n# date: 2",  "\n256,1.25\n"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        cr_expect(strstr(text, expected[i]), "no '%s' in\n%s", expected[i], text);
    unlink(path);
    snprintf(path, sizeof path, "%s/new", directory);
    rmdir(path);
    rmdir(directory);
}

Test(csv, full_disk_is_reported) {
    Csv csv;
    cr_assert_eq(csv_open(&csv, "/dev/full", "a", "cpu", 1, &err), 0);
    csv_row(&csv, "1");
    cr_assert_eq(csv_close(&csv, &err), -1);
    cr_assert(strstr(err.text, "/dev/full") && strstr(err.text, "No space"), "%s", err.text);
}

Test(csv, bad_place_is_reported) {
    Csv csv;
    cr_assert_eq(csv_open(&csv, "/dev/null/x/a.csv", "a", "cpu", 1, &err), -1);
    cr_assert(strstr(err.text, "/dev/null"), "%s", err.text);
    cr_assert_eq(csv_open(&csv, "/tmp", "a", "cpu", 1, &err), -1);
    cr_assert(strstr(err.text, "/tmp"), "%s", err.text);
}

/* ---- progress ---- */

Test(progress, formats) {
    char text[32];
    cr_assert_str_eq(format_time(text, sizeof text, 0), "0:00");
    cr_assert_str_eq(format_time(text, sizeof text, 59.6), "1:00");
    cr_assert_str_eq(format_time(text, sizeof text, 65), "1:05");
    cr_assert_str_eq(format_time(text, sizeof text, 7390), "2:03:10");
    cr_assert_str_eq(format_time(text, sizeof text, 1.0 / 0.0), "0:00");
    cr_assert_str_eq(format_count(text, sizeof text, 0), "0");
    cr_assert_str_eq(format_count(text, sizeof text, 999), "999");
    cr_assert_str_eq(format_count(text, sizeof text, 1000), "1,000");
    cr_assert_str_eq(format_count(text, sizeof text, 12345678), "12,345,678");
    cr_assert_str_eq(format_count(text, sizeof text, -123456), "-123,456");
    cr_assert_str_eq(format_count(text, sizeof text, INT64_MIN), "-9,223,372,036,854,775,808");
    cr_assert_str_eq(format_count(text, 4, 12345678), "12,");
}

Test(progress, log_stays_readable) {
    cr_redirect_stderr(); /* not a terminal */
    Progress progress = progress_start("work", 1000000);
    for (int i = 0; i <= 1000000; i++) progress_update(&progress, i, "step %d", i);
    cr_assert_eq(progress.terminal, false);
    cr_assert_eq(progress.lines, 1, "%d lines in a moment", progress.lines);
    progress_finish(&progress, "all");
    fflush(stderr);
    cr_assert_stderr_eq_str("work   0%  step 0  ? left\nwork  done in 0:00  all\n");
}

Test(progress, unknown_total) {
    cr_redirect_stderr();
    Progress progress = progress_start("work", 0);
    progress_update(&progress, 5, "fine");
    progress_finish(&progress, NULL);
    fflush(stderr);
    cr_assert_stderr_eq_str("work   0%  fine  ? left\nwork  done in 0:00\n");
}

/* What a terminal of so many columns shows of a bar at its half, `seconds` after its start. */
static void drawn(char *shown, size_t size, int columns, const char *text, double seconds) {
    int terminal, program;
    struct winsize window = {.ws_row = 24, .ws_col = (unsigned short)columns};
    cr_assert(openpty(&terminal, &program, NULL, NULL, &window) == 0);
    setenv("TERM", "xterm", 1);
    int old = dup(2);
    dup2(program, 2);
    Progress progress = progress_start("training", 100);
    progress.started -= seconds;
    progress_update(&progress, 50, "%s", text);
    dup2(old, 2);
    ssize_t length = read(terminal, shown, size - 1);
    cr_assert(length > 0);
    shown[length] = 0;
    close(old), close(terminal), close(program);
}

/* The bar gives up its room first, then the text is cut; the time left always stands there. */
Test(progress, fits_the_terminal) {
    static const char text[] = "loss 7.634  validation 7.058  2,885 tokens/s";
    for (int columns = 30; columns <= 130; columns++) {
        char shown[1000];
        drawn(shown, sizeof shown, columns, text, 83);
        int width = 0, cells = 0;
        for (const char *c = shown + 1; *c && *c != '\033'; c++)
            width += ((unsigned char)*c & 0xC0) != 0x80;
        for (const char *c = shown; (c = strstr(c, "█")); c++) cells++;
        check_all(shown[0] == '\r', width < columns, strstr(shown, "  1:23 left\033[K"),
                  strstr(shown, " 50%  "));
        cr_assert(columns < 80 || strstr(shown, text), "%d: the text is cut: %s", columns, shown);
        if (columns > 100) cr_assert_eq(cells, 12, "half of 24 cells, not %d", cells);
    }
}

/* Off a terminal there is no bar that could be in the way. */
Test(progress, makes_room) {
    cr_redirect_stderr();
    Progress progress = progress_start("work", 7);
    progress_clear(&progress);
    fprintf(stderr, "a table\n");
    progress.terminal = true;
    progress_clear(&progress);
    cr_assert(progress.drawn < 0, "the next update draws it again");
    fflush(stderr);
    cr_assert_stderr_eq_str("a table\n\r\033[K");
}

Test(progress, stopped_work_is_not_done) {
    cr_redirect_stderr();
    Progress progress = progress_start("work", 7);
    progress_stop(&progress, "%d of 7", 3);
    fflush(stderr);
    cr_assert_stderr_eq_str("work  stopped after 0:00  3 of 7\n");
}

/* ---- text charts, in ASCII so that the expected pictures can be read here ---- */

static void plain_terminal(void) {
    setenv("TERM", "dumb", 1);
    cr_redirect_stdout();
}

Test(text_chart, heat_map) {
    plain_terminal();
    const float values[] = {1, 0, 0, 0.5f, 0.5f, 0, 0.2f, 0.05f, NAN};
    const char *const labels[] = {"In", "the", "a\nb"};
    text_heat_map(values, 3, 3, labels, labels);
    fflush(stdout);
    cr_assert_stdout_eq_str("        t a \n"
                            "      I h . \n"
                            "      n e b \n"
                            "   In ##    \n"
                            "  the ----  \n"
                            "  a.b ....??\n"
                            "      .. to 0.25   -- to 0.5   ++ to 0.75   ## to 1\n");
}

Test(text_chart, bars) {
    plain_terminal();
    const char *const labels[] = {"one", "two", "three", "none", "below"};
    text_bars(labels, (double[]){10, 5, 1, 0, -2}, 5, "ms");
    fflush(stdout);
    cr_assert_stdout_eq_str("    one ======================================== 10 ms\n"
                            "    two ==================== 5 ms\n"
                            "  three ==== 1 ms\n"
                            "   none  0 ms\n"
                            "  below  -2 ms\n");
}

Test(text_chart, bars_of_large_counts) {
    cr_redirect_stdout();
    setenv("TERM", "dumb", 1);
    text_bars((const char *[]){"a", "b"}, (double[]){1234567, 308641.75}, 2, "documents");
    fflush(stdout);
    cr_assert_stdout_eq_str("  a ======================================== 1234567 documents\n"
                            "  b ========== 3.086e+05 documents\n");
}

/* What a picture of 64 columns must have: `height` lines, the axes' ends, a rising curve. */
Test(text_chart, curve) {
    char path[] = "/tmp/test_support_XXXXXX", text[4096];
    setenv("TERM", "dumb", 1);
    cr_assert(mkstemp(path) >= 0);
    cr_assert(freopen(path, "w", stdout) != NULL);
    text_line_chart("a title", (double[]){0, 50, 100}, (double[]){1, 2, 3}, 3, 4, 0);
    text_line_chart("nothing", (double[]){1, 2}, (double[]){NAN, -1}, 2, 4, 1);
    text_line_chart("one point", (double[]){5}, (double[]){7}, 1, 2, 0);
    fflush(stdout);
    read_text(path, text, sizeof text);
    unlink(path);
    int lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    cr_assert_eq(lines, (1 + 4 + 2) + 2 + (1 + 2 + 2), "%d lines:\n%s", lines, text);
    cr_assert(strstr(text, "  a title\n         3 |"), "%s", text);
    cr_assert(strstr(text, "         1 |.."), "%s", text);
    cr_assert(strstr(text, "  nothing\n  (no points)\n"), "%s", text);
    cr_assert(strstr(text, " 100\n"), "%s", text);
}

/* ---- charts by gnuplot ---- */

static bool gnuplot_missing(void) {
    char output[64];
    return process_run((const char *const[]){"gnuplot", "--version", NULL}, output, sizeof output,
                       NULL) != 0;
}

/*
 * A chapter's layout in a scratch directory, with a quote in its name: figures/NAME.gp two levels
 * below the directory that holds common/, which is ours by a link. Returns the path of the script.
 */
static char *figure_script(const char *directory, const char *commands) {
    static char path[300];
    char common[300];
    snprintf(path, sizeof path, "%s/it's", directory);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/it's/figures", directory);
    mkdir(path, 0777);
    cr_assert(realpath("common", common) || realpath("../common", common), "not in the repository");
    snprintf(path, sizeof path, "%s/common", directory);
    cr_assert_eq(symlink(common, path), 0);
    snprintf(path, sizeof path, "%s/it's/figures/chart.gp", directory);
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fprintf(file, "%s\n", commands);
    fclose(file);
    return path;
}

static void remove_all(const char *directory) {
    char output[64];
    process_run((const char *const[]){"rm", "-r", directory, NULL}, output, sizeof output, NULL);
}

Test(plot, draws_svg_and_png) {
    if (gnuplot_missing()) cr_skip_test("no gnuplot");
    char *directory = scratch(), csv_path[300], out[300], picture[310], text[4096];
    char *script = figure_script(directory, "plot data using 'T':'ms' with lines");
    snprintf(csv_path, sizeof csv_path, "%s/it's/rows.csv", directory);
    snprintf(out, sizeof out, "%s/it's/figures/out/chart", directory);
    Csv csv;
    cr_assert_eq(csv_open(&csv, csv_path, "T,ms", "cpu", 1, &err), 0, "%s", err.text);
    csv_row(&csv, "1,2");
    csv_row(&csv, "2,3");
    cr_assert_eq(csv_close(&csv, &err), 0);
    cr_assert_eq(plot_script(script, csv_path, out, &err), 0, "%s", err.text);
    snprintf(picture, sizeof picture, "%s.svg", out);
    read_text(picture, text, sizeof text);
    cr_assert(strstr(text, "<svg"), "%s", text);
    snprintf(picture, sizeof picture, "%s.png", out);
    read_text(picture, text, sizeof text);
    cr_assert_eq(memcmp(text, "\x89PNG", 4), 0);
    remove_all(directory);
}

Test(plot, bad_script_is_reported) {
    if (gnuplot_missing()) cr_skip_test("no gnuplot");
    char *directory = scratch(), out[300], picture[310];
    char *script = figure_script(directory, "plot nonsense(");
    snprintf(out, sizeof out, "%s/chart", directory);
    cr_assert_eq(plot_script(script, "rows.csv", out, &err), -1);
    cr_assert(strstr(err.text, "chart.gp") && strstr(err.text, "invalid"), "%s", err.text);
    snprintf(picture, sizeof picture, "%s.svg", out);
    cr_assert_neq(access(picture, F_OK), 0, "a half-drawn file was left behind");
    cr_assert_eq(plot_script("absent.gp", "rows.csv", out, &err), -1);
    cr_assert(strstr(err.text, "absent.gp"), "%s", err.text);
    remove_all(directory);
}

Test(plot, missing_gnuplot_is_no_error) {
    char *directory = scratch(), out[300];
    char *script = figure_script(directory, "plot x"), *path = strdup(getenv("PATH"));
    snprintf(out, sizeof out, "%s/chart", directory);
    setenv("PATH", directory, 1);
    cr_assert_eq(plot_script(script, "rows.csv", out, &err), 1);
    setenv("PATH", path, 1);
    remove_all(directory);
}

/* ---- other programs ---- */

Test(process, status_and_output) {
    char output[8];
    const char *const fails[] = {"sh", "-c", "echo out; echo err >&2; exit 3", NULL};
    cr_assert_eq(process_run(fails, output, sizeof output, &err), 3);
    cr_assert_str_eq(output, "out\nerr"); /* cut to fit */
    const char *const absent[] = {"no-such-program-anywhere", NULL};
    cr_assert_eq(process_run(absent, output, sizeof output, &err), PROCESS_MISSING);
    const char *const killed[] = {"sh", "-c", "kill -9 $$", NULL};
    cr_assert_eq(process_run(killed, output, sizeof output, &err), -1);
    cr_assert(strstr(err.text, "Killed"), "%s", err.text);
    /* More than a pipe holds: the child must not wait for a reader for ever. */
    const char *const loud[] = {"sh", "-c", "head -c 1000000 /dev/zero", NULL};
    cr_assert_eq(process_run(loud, output, sizeof output, &err), 0);
}

Test(process, arguments_are_not_commands) {
    char output[64];
    const char *const echo[] = {"echo", "$(id); `id`", NULL};
    cr_assert_eq(process_run(echo, output, sizeof output, NULL), 0);
    cr_assert_str_eq(output, "$(id); `id`\n");
}

Test(machine, says_something) {
    cr_assert(strstr(cpu_describe().text, " core"));
    cr_assert(strstr(blas_describe().text, "OpenBLAS"));
    cr_assert(strlen(compiler_describe().text) > 4);
    cr_assert(strlen(commit_describe().text) >= 7); /* a hash, or "unknown" */
}
