/*
 * The choice of OpenBLAS's kernels, and the restart that makes it (blas.h).
 *
 * For the restart this program runs itself with BLAS_TEST_PROBE set. Then it only prints, before
 * main() and after the restart, what arrived: kernels, arguments, a variable of the environment.
 */
#include "common/core/blas.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

/* Behind priority 101, so that it runs after blas.c has decided. */
__attribute__((constructor(200))) static void probe(int argc, char **argv) {
    if (!getenv("BLAS_TEST_PROBE")) return;
    const char *wanted = getenv("OPENBLAS_CORETYPE"), *wait = getenv("OMP_WAIT_POLICY");
    printf("coretype=%s kernels=%s wait=%s probe=%s argc=%d", wanted ? wanted : "none",
           blas_corename(), wait ? wait : "none", getenv("BLAS_TEST_PROBE"), argc);
    for (int i = 0; i < argc; i++) printf(" <%s>", argv[i]);
    fflush(stdout);
    _exit(0);
}

typedef struct Text {
    char text[1024];
} Text;

static void set_or_unset(const char *name, const char *value) {
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* Runs this program with these variables set (NULL: unset), and returns what it prints. */
static Text run_probe(const char *coretype, const char *pretend, const char *wait_policy) {
    Text out = {""};
    int pipe_ends[2];
    cr_assert(pipe(pipe_ends) == 0);
    pid_t child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        dup2(pipe_ends[1], 1);
        set_or_unset("OPENBLAS_CORETYPE", coretype);
        set_or_unset("BLAS_PRETEND_CORE", pretend);
        set_or_unset("OMP_WAIT_POLICY", wait_policy);
        setenv("BLAS_TEST_PROBE", "kept, with \"quotes\"", 1);
        alarm(20); /* restarting for ever would end here; an alarm survives exec */
        execl("/proc/self/exe", "a name of its own", "", "two words", "--flag=\n", (char *)NULL);
        _exit(127);
    }
    close(pipe_ends[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(pipe_ends[0], out.text + length, sizeof out.text - 1 - length)) > 0;)
        length += (size_t)n;
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the probe ended with status %x",
              (unsigned)status);
    return out;
}

static const char arguments[] =
    " probe=kept, with \"quotes\" argc=4 <a name of its own> <> <two words> <--flag=\n>";

static int starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

Test(blas, avx2_kernels_are_replaced_where_there_is_avx512) {
    cr_assert_str_eq(blas_better_kernels("Haswell", 1, 1), "SkylakeX");
    cr_assert_str_eq(blas_better_kernels("Zen", 1, 1), "SkylakeX");
    cr_assert_null(blas_better_kernels("Haswell", 1, 0));
    cr_assert_null(blas_better_kernels("Cooperlake", 1, 1));
    cr_assert_null(blas_better_kernels("SkylakeX", 1, 1));
    cr_assert_null(blas_better_kernels("neoversen1", 0, 0));
}

Test(blas, sse_kernels_are_replaced_by_the_best_the_cpu_has) {
    cr_assert_str_eq(blas_better_kernels("Prescott", 1, 1), "SkylakeX");
    cr_assert_str_eq(blas_better_kernels("Prescott", 1, 0), "Haswell");
    cr_assert_null(blas_better_kernels("Prescott", 0, 0));
}

Test(blas, restart_keeps_arguments_and_environment) {
    if (!__builtin_cpu_supports("avx512vl")) cr_skip_test("this CPU has no AVX-512");
    Text out = run_probe(NULL, "Haswell", NULL);
    cr_assert(starts_with(out.text, "coretype=SkylakeX kernels=SkylakeX"), "%s", out.text);
    cr_assert(strstr(out.text, arguments), "%s", out.text);
}

Test(blas, good_kernels_are_left_alone) {
    Text out = run_probe(NULL, "Cooperlake", "passive");
    cr_assert(starts_with(out.text, "coretype=none "), "%s", out.text);
    cr_assert(strstr(out.text, arguments), "%s", out.text);
}

Test(blas, the_users_choice_is_left_alone) {
    Text out = run_probe("Haswell", "Haswell", NULL);
    cr_assert(starts_with(out.text, "coretype=Haswell kernels=Haswell"), "%s", out.text);
    cr_assert(strstr(out.text, arguments), "%s", out.text);
}

Test(blas, waiting_threads_sleep_unless_the_user_wants_otherwise) {
    Text out = run_probe(NULL, "Cooperlake", NULL);
    cr_assert(starts_with(out.text, "coretype=none "), "%s", out.text);
    cr_assert(strstr(out.text, " wait=passive "), "%s", out.text);
    cr_assert(strstr(out.text, arguments), "%s", out.text);
    cr_assert(strstr(run_probe(NULL, "Haswell", "active").text, " wait=active "));
}

/* What the tests themselves run with: on a CPU with AVX-512, kernels that use it. */
Test(blas, these_tests_use_the_better_kernels) {
    const char *wanted = getenv("OPENBLAS_CORETYPE");
    if (!__builtin_cpu_supports("avx512vl")) cr_skip_test("this CPU has no AVX-512");
    if (wanted && strcasecmp(wanted, "SkylakeX") != 0) cr_skip_test("OPENBLAS_CORETYPE is set");
    cr_assert_null(blas_better_kernels(blas_corename(), 1, 1), "kernels in use: %s",
                   blas_corename());
}

Test(blas, threads_can_be_set_and_reset) {
    int all = blas_threads();
    blas_set_threads(1);
    cr_assert_eq(blas_threads(), 1);
    blas_set_threads(0);
    cr_assert_eq(blas_threads(), all);
}
