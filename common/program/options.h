/*
 * Command lines: a program's flags are one table, a line for each flag. It holds the flag's name,
 * its range, its help and the variable that it sets, so that none of them can contradict another.
 *
 *     DemoOptions o = {.steps = 600};
 *     const Option flags[] = {
 *         OPT_INT("steps", 's', "N", &o.steps, 1, 100000, "Training steps"),
 *         OPT_STRING("text", 't', "FILE", &o.text, "Text to learn from (default: Genesis)"),
 *         OPT_COMMON(&o.common),
 *         OPT_END,
 *     };
 *     options_parse(argc, argv, "Trains a small model.", flags);
 *
 * --help is the table, in its order. A default that it prints is the variable's value before
 * parsing, unless the help says "default" itself. A value that is not what the flag takes, or is
 * out of range, is an error that names the flag and the range; a wrong command line exits with 2.
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include "common/core/context.h"

typedef enum OptionKind {
    OPTION_END,
    OPTION_HEAD, /* a title for the flags below it */
    OPTION_INT,
    OPTION_FLOAT,
    OPTION_FLAG, /* takes no value: true if it is there */
    OPTION_STRING,
    OPTION_CHOICE, /* one of some names; the value is its number */
    OPTION_LIST,   /* text that may be given several times */
    OPTION_WORDS,  /* the words that belong to no flag; without such a row there may be none */
    OPTION_SEED,   /* a whole number of 64 bits */
    OPTION_CALL,   /* a function reads it */
    OPTION_TABLE,  /* the rows of another table */
    OPTION_COMMON,
} OptionKind;

typedef struct Option {
    OptionKind kind;
    const char *name; /* without its dashes */
    int letter;       /* of the short form; 0: there is none */
    const char *metavar, *help;
    void *value;
    size_t size;      /* of *value */
    double low, high; /* inclusive; of a list, high is the most there may be (0: any number) */
    const char *const *names; /* of a choice, behind the last NULL */
    int (*call)(void *value, const char *text, Error *err);
    /* What a row may add behind its help, by name: */
    /* `.required = "says which model"`: without the flag, an error says so. (A choice is then -1 at
     * first.) */
    const char *required;
    bool setting; /* `.setting = true`: a resumed run must have the same value */
} Option;

/* The words of a flag that may be given several times; free(items) in the end. */
typedef struct StringList {
    const char **items;
    int count;
} StringList;

#define OPTION_ROW(kind_, name_, letter_, metavar_, place, help_)                         \
    .kind = kind_, .name = name_, .letter = letter_, .metavar = metavar_, .value = place, \
    .help = help_
#define OPTION_IS(type, place) _Generic((place), type * : place)

/* int or int64_t or size_t; float or double; bool or an enum. Other variables do not compile. */
#define OPT_INT(name, letter, metavar, place, low_, high_, help, ...)                        \
    {                                                                                        \
        OPTION_ROW(OPTION_INT, name, letter, metavar, place, help),                          \
            .low = low_, .high = high_,                                                      \
            .size = _Generic((place), int * : 4, int64_t * : 8, size_t * : 8), ##__VA_ARGS__ \
    }
#define OPT_FLOAT(name, letter, metavar, place, low_, high_, help, ...)                       \
    {                                                                                         \
        OPTION_ROW(OPTION_FLOAT, name, letter, metavar, place, help),                         \
            .low = low_, .high = high_, .size = _Generic((place), float * : 4, double * : 8), \
            ##__VA_ARGS__                                                                     \
    }
#define OPT_FLAG(name, letter, place, help, ...) \
    { OPTION_ROW(OPTION_FLAG, name, letter, NULL, OPTION_IS(bool, place), help), ##__VA_ARGS__ }
#define OPT_STRING(name, letter, metavar, place, help, ...)                                     \
    {                                                                                           \
        OPTION_ROW(OPTION_STRING, name, letter, metavar, OPTION_IS(const char *, place), help), \
            ##__VA_ARGS__                                                                       \
    }
#define OPT_CHOICE(name, letter, metavar, place, names_, help, ...)    \
    {                                                                  \
        OPTION_ROW(OPTION_CHOICE, name, letter, metavar, place, help), \
            .size = sizeof *(place), .names = names_, ##__VA_ARGS__    \
    }
#define OPT_SEED(name, place, help) \
    { OPTION_ROW(OPTION_SEED, name, 0, "N", OPTION_IS(uint64_t, place), help) }
#define OPT_LIST(name, letter, metavar, place, most, help, ...)                             \
    {                                                                                       \
        OPTION_ROW(OPTION_LIST, name, letter, metavar, OPTION_IS(StringList, place), help), \
            .high = most, ##__VA_ARGS__                                                     \
    }
#define OPT_WORDS(metavar_, place) \
    { .kind = OPTION_WORDS, .metavar = metavar_, .value = _Generic((place), StringList * : place) }
/* `function` gets the place, the flag's text (NULL if metavar is: it takes none) and an Error. */
#define OPT_CALL(name, letter, metavar, place, function, help, ...) \
    { OPTION_ROW(OPTION_CALL, name, letter, metavar, place, help), .call = function, ##__VA_ARGS__ }
#define OPT_HEAD(title) \
    { .kind = OPTION_HEAD, .help = title }
#define OPT_TABLE(rows) \
    { .kind = OPTION_TABLE, .value = (void *)(rows) }
#define OPT_END \
    { .kind = OPTION_END }

/* What the flags of (nearly) every program set. */
typedef struct CommonOptions {
    Device device;
    DType dtype;
    uint64_t seed;
    int threads; /* 0 on the command line: one per core. After options_parse(): the number in use */
    const char *csv; /* for OPT_CSV */
} CommonOptions;

/* --seed, --threads, --device and --dtype, or those of them that mean something to a program.
 * Their defaults are 1, one thread per core, cpu and f32. */
enum { COMMON_SEED = 1, COMMON_THREADS = 2, COMMON_DEVICE = 4, COMMON_DTYPE = 8 };
#define OPT_COMMON_OF(common, flags) \
    { .kind = OPTION_COMMON, .value = common, .high = flags }
#define OPT_COMMON(common) OPT_COMMON_OF(common, 15)
#define OPT_CSV(common) \
    OPT_STRING("csv", 0, "FILE", &(common)->csv, "Write the numbers of the run to FILE")

/*
 * Parses argv; `about` is the first line of --help (and behind a \v, its end). The number of
 * threads is handed to OpenMP and OpenBLAS; without --threads, OMP_NUM_THREADS counts.
 */
void options_parse(int argc, char **argv, const char *about, const Option *flags);

/* For what flags say together: an exit with 2, a message, and a hint at --help. */
void options_error(char **argv, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

/* From here on a program that ends well, but whose stdout could not take all of it (a full disk),
 * says so and ends with 1. Whoever has closed stdout wants none of it. options_parse() begins with
 * it. */
void options_output_must_arrive(void);

/* The row's value now, as one would type it. */
typedef struct OptionText {
    char text[128];
} OptionText;
OptionText option_text(const Option *row);

/* Sets the row's variable to what the text says. -1 and a message: it is as it was. */
int option_read(const Option *row, const char *text, Error *err);

/* context_init with the flags' device, dtype and seed; prints the error and exits with 1 if the
 * device is not there, or if --csv names what cannot be written: before any work, not after it. */
void options_open(const CommonOptions *common, Context *ctx);

#endif
