/*
 * OpenBLAS: the right kernels, and the number of threads.
 *
 * OpenBLAS picks its kernels by a table of CPU models. Version 0.3.21 (Debian 12) gives some AMD
 * CPUs with AVX-512 its AVX2 kernels, at about half the speed, and CPUs it has never heard of the
 * SSE kernels of 2004. The choice can be overruled by the environment variable OPENBLAS_CORETYPE,
 * but only before the library is loaded, which is before any code of ours runs. So blas.c looks
 * once, before main(): if the CPU can do better and the variable is not set, it sets the variable
 * and lets the program replace itself by itself. To keep what OpenBLAS picked, set
 * OPENBLAS_CORETYPE yourself.
 *
 * The same restart sets OMP_WAIT_POLICY=passive and GOMP_SPINCOUNT=5000, if the user has not set
 * the first: a thread with nothing to do spins for some 50 microseconds and then sleeps. GNU's
 * OpenMP spins for milliseconds otherwise. On an idle machine that is as fast (never spinning is
 * 8 % slower in a training step); on a machine that does something else besides, spinning threads
 * keep each other from running, and a step took up to ten times as long.
 */
#ifndef COMMON_BLAS_H
#define COMMON_BLAS_H

/* The kernels in use, by the CPU they were written for: "SkylakeX", "Haswell", ... */
const char *blas_corename(void);

/* The kernels to ask for instead of `chosen` on this CPU, or NULL when `chosen` is good. */
const char *blas_better_kernels(const char *chosen, int cpu_has_avx2, int cpu_has_avx512);

/* Threads of OpenMP and OpenBLAS. n = 0: one for each core we may use, or OMP_NUM_THREADS. */
void blas_set_threads(int n);
int blas_threads(void);

#endif
