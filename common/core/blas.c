/* OpenBLAS and OpenMP: the right kernels, how threads wait, and how many. blas.h tells the
 * story. */
#include "common/core/blas.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

const char *blas_corename(void) { return openblas_get_corename(); }

const char *blas_better_kernels(const char *chosen, int cpu_has_avx2, int cpu_has_avx512) {
    /* Zen is Haswell's code under another name. SkylakeX needs AVX-512 F, CD, BW, DQ and VL. */
    int avx2 = strcmp(chosen, "Haswell") == 0 || strcmp(chosen, "Zen") == 0;
    int sse = strcmp(chosen, "Prescott") == 0; /* what a CPU newer than the library gets */
    if ((avx2 || sse) && cpu_has_avx512) return "SkylakeX";
    return sse && cpu_has_avx2 ? "Haswell" : NULL;
}

static int cpu_has_avx2(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

static int cpu_has_avx512(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

/*
 * OpenBLAS takes its buffers when it is loaded, and where there is no room for them (ulimit -v, two
 * threads: 304 MB) tries for ever. Only what stands in .preinit_array runs before that.
 */
enum { LEAST_ADDRESS_SPACE = 304 << 20 };

static void check_address_space(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur >= LEAST_ADDRESS_SPACE) return;
    static const char message[] = "the limit on memory (ulimit -v) is too low: OpenBLAS needs some "
                                  "300 MB of addresses to start with\n";
    (void)!write(2, message, sizeof message - 1);
    _exit(1);
}
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(void) = check_address_space;

/*
 * Runs before main(), and after OpenBLAS and OpenMP have read their variables (shared libraries are
 * initialised first), so the program has to start again to be heard. It happens at most once, for
 * the second time both variables are there. When the program cannot be started again it goes on:
 * slower, and right. BLAS_PRETEND_CORE stands in for OpenBLAS's choice in the test of this
 * function.
 */
__attribute__((constructor(101))) static void restart_with_better_settings(int argc, char **argv) {
    (void)argc;
    const char *better = NULL, *pretended = getenv("BLAS_PRETEND_CORE");
    if (!getenv("OPENBLAS_CORETYPE"))
        better = blas_better_kernels(pretended ? pretended : blas_corename(), cpu_has_avx2(),
                                     cpu_has_avx512());
    if (getenv("OMP_WAIT_POLICY") && !better) return;

    /* The path behind the link, so that `ps` and `top` show the program's name and not "exe". */
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return;
    program[length] = 0;
    if (better) setenv("OPENBLAS_CORETYPE", better, 1);
    if (!getenv("OMP_WAIT_POLICY")) {
        setenv("OMP_WAIT_POLICY", "passive", 1);
        setenv("GOMP_SPINCOUNT", "5000", 0); /* some 50 us: longer than most waits of a step */
    }
    execv(program, argv);
}

void blas_set_threads(int n) {
    /* what OpenMP starts with: the cores this process may use, or OMP_NUM_THREADS */
    static int initial;
    if (!initial) initial = omp_get_max_threads();
    if (n <= 0) n = initial;
    omp_set_num_threads(n);
    openblas_set_num_threads(n);
}

int blas_threads(void) { return omp_get_max_threads(); }
