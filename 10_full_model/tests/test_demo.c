/*
 * The demo, quickly and on a text of one's own: it fits a terminal, and what it recommends is about
 * that text and can be run as it is printed.
 */
#include "common/tests/test_demo.h"
#include "10_full_model/tests/test_world.h"

#include <pty.h>
#include <sys/wait.h>

/* The lines between `from` and the first that ends without a backslash, as one command. */
static void command_in(const char *text, const char *from, char *command, size_t size) {
    const char *at = strstr(text, from);
    cr_assert_not_null(at, "'%s' is not in\n%s", from, text);
    size_t length = 0;
    for (bool more = true; more && length < size - 1; at++) {
        more = *at != '\n' || at[-1] == '\\';
        command[length++] = *at;
    }
    command[length] = 0;
}

Test(demo, fits_a_terminal_and_recommends_what_works) {
    Scratch w = scratch_open();
    size_t bytes;
    char *text = world_text(&bytes), arguments[500], data[200], out[200], line[700];
    FILE *file = fopen(scratch_path(&w, "my text.txt"), "w");
    for (int i = 0; i < 8; i++) fwrite(text, 1, bytes, file); /* it needs more than a page */
    fclose(file);
    snprintf(data, sizeof data, "%s", w.path);
    snprintf(out, sizeof out, "%s/out", w.directory);
    snprintf(arguments, sizeof arguments, "--steps 2 --vocab 300 --data '%s' --out %s", data, out);
    char *said = demo_output(arguments);
    cr_assert(!strstr(said, "bible") && !strstr(said, "The king"), "%s", said);
    cr_assert(strstr(said, "tokens a step") && strstr(said, "the same text, token for token"), "%s",
              said);
    static const char *const commands[] = {"10_full_model/deepseek generate",
                                           "10_full_model/deepseek eval",
                                           "10_full_model/deepseek quantize"};
    char program[500], command[3000];
    program_path(program, sizeof program, "deepseek");
    for (int i = 0; i < 3; i++) {
        command_in(said, commands[i], line, sizeof line);
        snprintf(command, sizeof command, "%s%s >%s/output 2>&1", program,
                 line + strlen("10_full_model/deepseek"), w.directory);
        char *newline = strstr(command, "\n >");
        cr_assert_not_null(newline);
        *newline = ' ';
        cr_assert_eq(system(command), 0, "%s", command);
    }
    char *wide = too_wide(said);
    cr_assert(!wide || strstr(wide, w.directory), "wider than %d columns: %s",
              (int)TERMINAL_COLUMNS, wide);
}

/* A text that would command a terminal. */
static void commanding_text(Scratch *w) {
    size_t bytes;
    char *text = world_text(&bytes);
    FILE *file = fopen(scratch_path(w, "text.txt"), "w");
    for (int i = 0; i < 8; i++) fprintf(file, "\33]0;mine\7 %.*s", (int)bytes, text);
    fclose(file);
}

/* A pipe gets its bytes as they are. */
Test(demo, says_to_a_pipe_what_it_read) {
    Scratch w = scratch_open();
    char arguments[700];
    commanding_text(&w);
    snprintf(arguments, sizeof arguments, "--steps 1 --vocab 300 --data '%s' --out %s/out", w.path,
             w.directory);
    cr_assert(strchr(demo_output(arguments), 27));
}

Test(demo, commands_nobodys_terminal) {
    Scratch w = scratch_open();
    size_t used = 0;
    char program[500], data[200], csv[200], out[200];
    static char said[1 << 20];
    commanding_text(&w);
    snprintf(data, sizeof data, "%s", w.path);
    snprintf(csv, sizeof csv, "%s/demo.csv", w.directory);
    snprintf(out, sizeof out, "%s/out", w.directory);
    program_path(program, sizeof program, "demo");
    int terminal;
    pid_t id = forkpty(&terminal, NULL, NULL, NULL);
    cr_assert(id >= 0);
    if (!id) {
        setenv("PATH", "/nowhere", 1);
        execl(program, "demo", "--steps", "1", "--vocab", "300", "--data", data, "--csv", csv,
              "--out", out, NULL);
        _exit(127);
    }
    for (ssize_t got; (got = read(terminal, said + used, sizeof said - 1 - used)) > 0;)
        used += (size_t)got;
    int status;
    cr_assert(waitpid(id, &status, 0) == id && status == 0, "%d: %s", status, said);
    cr_assert(strstr(said, "<1B>") && !strstr(said, "\33]"), "%s", said);
}
