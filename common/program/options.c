/*
 * A table of flags, handed to glibc's argp.
 *
 * Rows of tables within the table are copied into one list first. Row i's key is its letter, or
 * 256 + i if it has none; argp calls back with it, and the row says what is to be done.
 */
#define _GNU_SOURCE /* program_invocation_short_name, on_exit */
#include "common/program/options.h"

#include "common/core/blas.h"
#include "common/core/memory.h"
#include "common/files/csv.h"
#include "common/program/progress.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ROWS = 64, MAX_HELP = 400, MAX_THREADS = 1024 };

typedef struct Table {
    Option rows[MAX_ROWS];
    char help[MAX_ROWS][MAX_HELP];
    int count;
    CommonOptions *common; /* NULL: the program has none of its flags */
} Table;

/* ---- values ---- */

/* The number that an INT or a CHOICE holds. */
static int64_t whole_of(const Option *row) {
    if (row->size == 8) return *(const int64_t *)row->value;
    return row->size == 1 ? *(const bool *)row->value : *(const int *)row->value;
}

static void set_whole(const Option *row, int64_t number) {
    if (row->size == 8)
        *(int64_t *)row->value = number;
    else if (row->size == 1)
        *(bool *)row->value = number;
    else
        *(int *)row->value = (int)number;
}

OptionText option_text(const Option *row) {
    OptionText out = {""};
    const char *text = "";
    switch (row->kind) {
    case OPTION_INT:
        snprintf(out.text, sizeof out.text, "%lld", (long long)whole_of(row));
        return out;
    case OPTION_FLOAT:
        format_number(out.text, sizeof out.text,
                      row->size == 4 ? *(float *)row->value : *(double *)row->value);
        return out;
    case OPTION_SEED:
        snprintf(out.text, sizeof out.text, "%llu", (unsigned long long)*(uint64_t *)row->value);
        return out;
    case OPTION_FLAG:
        text = *(bool *)row->value ? "yes" : "no";
        break;
    case OPTION_STRING:
        text = *(const char **)row->value;
        break;
    case OPTION_CHOICE:
        text = whole_of(row) < 0 ? NULL : row->names[whole_of(row)]; /* below 0: not given */
        break;
    default:
        break;
    }
    snprintf(out.text, sizeof out.text, "%s", text ? text : "");
    return out;
}

/* ---- reading one flag ---- */

static int read_integer(const Option *row, const char *text, Error *err) {
    char *end;
    long low = (long)row->low, high = (long)row->high;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end)
        return error_set(err, "'%s' is not a whole number between %ld and %ld", text, low, high);
    if (errno == ERANGE || value < low || value > high)
        return error_set(err, "%s is not between %ld and %ld", text, low, high);
    set_whole(row, value);
    return 0;
}

static int read_number(const Option *row, const char *text, Error *err) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || isnan(value))
        return error_set(err, "'%s' is not a number between %g and %g", text, row->low, row->high);
    if (!(value >= row->low && value <= row->high)) /* an overflow is infinite: outside too */
        return error_set(err, "%s is not between %g and %g", text, row->low, row->high);
    if (row->size == 4)
        *(float *)row->value = (float)value;
    else
        *(double *)row->value = value;
    return 0;
}

/* A seed uses all 64 bits, which a long has not; strtoull would take "-1". */
static int read_seed(const Option *row, const char *text, Error *err) {
    char *end;
    errno = 0;
    unsigned long long seed = strtoull(text, &end, 10);
    if (end == text || *end || strchr(text, '-'))
        return error_set(err, "'%s' is not a whole number from 0 on", text);
    if (errno == ERANGE) return error_set(err, "%s needs more than 64 bits", text);
    *(uint64_t *)row->value = seed;
    return 0;
}

static int read_choice(const Option *row, const char *text, Error *err) {
    char list[200] = "";
    for (int i = 0; row->names[i]; i++) {
        if (!strcmp(text, row->names[i])) {
            set_whole(row, i);
            return 0;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", row->names[i]);
    }
    return error_set(err, "'%s' is none of: %s", text, list);
}

static int add_text(const Option *row, const char *text, Error *err) {
    StringList *list = row->value;
    if (row->high > 0 && list->count >= row->high)
        return error_set(err, "at most %g of them", row->high);
    list->items = must_realloc(list->items, (size_t)(list->count + 1), sizeof *list->items);
    list->items[list->count++] = text;
    return 0;
}

/* A script's variable that was never set: said at once, and not after an hour of work. */
static int check_name(const Option *row, const char *text, Error *err) {
    if (*text || !row->metavar) return 0;
    if (!strcmp(row->metavar, "FILE")) return error_set(err, "it is empty; name a file");
    if (strcmp(row->metavar, "DIR")) return 0;
    return error_set(err, "it is empty; name a folder (\".\" is the one where you are)");
}

int option_read(const Option *row, const char *text, Error *err) {
    if (text && check_name(row, text, err)) return -1;
    switch (row->kind) {
    case OPTION_INT:
        return read_integer(row, text, err);
    case OPTION_FLOAT:
        return read_number(row, text, err);
    case OPTION_FLAG:
        *(bool *)row->value = true;
        return 0;
    case OPTION_STRING:
        *(const char **)row->value = text;
        return 0;
    case OPTION_SEED:
        return read_seed(row, text, err);
    case OPTION_CHOICE:
        return read_choice(row, text, err);
    case OPTION_CALL:
        return row->call(row->value, text, err);
    default:
        return add_text(row, text, err);
    }
}

static int key_of(const Table *table, const Option *row) {
    return row->letter ? row->letter : 256 + (int)(row - table->rows);
}

static error_t read_key(int key, char *text, struct argp_state *state) {
    const Table *table = state->input;
    for (const Option *row = table->rows; row < table->rows + table->count; row++) {
        bool flag = row->kind != OPTION_HEAD && row->kind != OPTION_WORDS;
        if (flag ? key != key_of(table, row) : key != ARGP_KEY_ARG || row->kind == OPTION_HEAD)
            continue;
        Error err;
        if (option_read(row, text, &err)) argp_error(state, "--%s: %s", row->name, err.text);
        return 0;
    }
    if (key == ARGP_KEY_ARG)
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
    return ARGP_ERR_UNKNOWN;
}

/* ---- the list of all flags ---- */

static void add_rows(Table *table, const Option *rows);

static void add_common(Table *table, CommonOptions *c, int flags) {
    static const char *const devices[] = {"cpu", "cuda", NULL}, *const dtypes[] = {"f32", "bf16",
                                                                                   NULL};
    c->device = CPU, c->dtype = F32, c->seed = 1;
    const Option rows[] = {
        OPT_SEED("seed", &c->seed, "Seed of all random numbers"),
        OPT_INT("threads", 0, "N", &c->threads, 0, MAX_THREADS,
                "CPU threads (default 0: one per core)"),
        OPT_CHOICE("device", 0, "cpu|cuda", &c->device, devices, "Where to compute"),
        OPT_CHOICE("dtype", 0, "f32|bf16", &c->dtype, dtypes,
                   "Numbers to compute with; bf16 needs cuda"),
    };
    add_rows(table, (const Option[]){OPT_HEAD("In every program:"), OPT_END});
    for (int i = 0; i < 4; i++)
        if (flags & 1 << i) add_rows(table, (const Option[]){rows[i], OPT_END});
    table->common = c;
}

static void add_rows(Table *table, const Option *rows) {
    for (const Option *row = rows; row->kind != OPTION_END; row++) {
        if (row->kind == OPTION_TABLE) {
            add_rows(table, row->value);
        } else if (row->kind == OPTION_COMMON) {
            add_common(table, row->value, (int)row->high);
        } else {
            CHECK(table->count < MAX_ROWS, "more than %d flags", (int)MAX_ROWS);
            table->rows[table->count++] = *row;
        }
    }
}

/* What --help says of a row: its help, and what it is without the flag. */
static const char *help_of(Table *table, const Option *row) {
    char *help = table->help[row - table->rows];
    OptionText now = option_text(row);
    bool known = strstr(row->help, "default") || row->kind == OPTION_FLAG || !*now.text;
    int length = snprintf(help, MAX_HELP,
                          row->required ? "%s (required)"
                          : known       ? "%s"
                                        : "%s (default %s)",
                          row->help, now.text);
    CHECK(length < MAX_HELP, "--%s: its help is too long", row->name);
    return help;
}

/* Was a flag left out that must be there? */
static void check_required(const Table *table, char **argv) {
    for (const Option *row = table->rows; row < table->rows + table->count; row++) {
        if (!row->required) continue;
        bool given = row->kind == OPTION_LIST     ? ((StringList *)row->value)->count > 0
                     : row->kind == OPTION_CHOICE ? whole_of(row) >= 0
                                                  : *(const char **)row->value != NULL;
        if (!given) options_error(argv, "--%s %s %s", row->name, row->metavar, row->required);
    }
}

static void check_output(int status, void *unused) {
    (void)unused;
    if (status != 0) return;
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    fprintf(stderr, "%s: cannot write what is to be printed: %s\n", program_invocation_short_name,
            errno ? strerror(errno) : "an earlier write failed");
    fflush(stderr);
    _exit(1);
}

/* A stream that was closed goes to /dev/null: else the first file that a program opens would be its
 * stdout, and hold both. */
static void open_closed_streams(void) {
    int file;
    do file = open("/dev/null", O_RDWR);
    while (file >= 0 && file <= STDERR_FILENO);
    if (file > STDERR_FILENO) close(file);
}

void options_output_must_arrive(void) {
    static bool watched;
    if (!watched) open_closed_streams(), on_exit(check_output, NULL);
    watched = true;
}

void options_parse(int argc, char **argv, const char *about, const Option *flags) {
    Table table = {.count = 0};
    struct argp_option list[MAX_ROWS + 1] = {0};
    char words[64] = "";
    add_rows(&table, flags);
    /* argp sorts a group's flags by their names. A group for each row keeps the table's order; then
     * a head must be an entry like the others, or argp would put a blank line before every row. */
    for (int i = 0, count = 0; i < table.count; i++) {
        const Option *row = &table.rows[i];
        struct argp_option *entry = &list[count];
        if (row->kind == OPTION_WORDS) {
            snprintf(words, sizeof words, "[%s...]", row->metavar);
            continue;
        }
        if (row->kind == OPTION_HEAD) {
            snprintf(table.help[i], MAX_HELP, "\n%s", row->help);
            *entry = (struct argp_option){.name = table.help[i], .flags = OPTION_DOC};
        } else {
            *entry = (struct argp_option){.name = row->name,
                                          .key = key_of(&table, row),
                                          .arg = row->metavar,
                                          .doc = help_of(&table, row)};
        }
        entry->group = ++count;
    }
    const struct argp argp = {
        .options = list, .parser = read_key, .args_doc = *words ? words : NULL, .doc = about};
    argp_err_exit_status = 2;     /* argp's own choice is 64 */
    options_output_must_arrive(); /* --help ends the program, too */
    argp_parse(&argp, argc, argv, 0, NULL, &table);
    check_required(&table, argv);
    if (!table.common) return;
    blas_set_threads(table.common->threads);
    table.common->threads = blas_threads();
}

void options_error(char **argv, const char *format, ...) {
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    fprintf(stderr, "%s: ", name);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry `%s --help' for more information.\n", name);
    exit(2);
}

void options_open(const CommonOptions *options, Context *ctx) {
    Error err;
    if ((options->csv && csv_check(options->csv, &err)) ||
        context_init(ctx, options->device, options->dtype, options->seed, &err))
        fatal("%s", err.text);
}
