/*
 * Where the words come from: /proc/cpuinfo, OpenBLAS's own description, the compiler's predefined
 * macros, and `git` for the commit ("-dirty" when a file that programs are made of has changed).
 * What cannot be found out is "unknown": no program fails for it.
 */
#include "common/files/machine.h"

#include "common/core/blas.h"
#include "common/files/process.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

MachineText device_describe(const Context *ctx) {
    MachineText text = {"cpu"};
    if (ctx->gpu) snprintf(text.text, sizeof text.text, "%s", gpu_describe(ctx->gpu).text);
    return text;
}

MachineText cpu_describe(void) {
    char model[128] = "unknown CPU", line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "model name", 10) != 0)
            continue; /* x86; other machines have no such line */
        char *value = strchr(line, ':');
        if (!value) continue;
        snprintf(model, sizeof model, "%s", value + 1 + strspn(value + 1, " \t"));
        model[strcspn(model, "\n")] = 0;
        break;
    }
    if (file) fclose(file);
    MachineText text;
    int cores = omp_get_num_procs(); /* those this process may use */
    snprintf(text.text, sizeof text.text, "%s, %d core%s", model, cores, cores == 1 ? "" : "s");
    return text;
}

MachineText blas_describe(void) {
    /* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...": name and version are the first two words. */
    char name[32] = "OpenBLAS", version[32] = "";
    sscanf(openblas_get_config(), "%31s %31s", name, version);
    MachineText text;
    snprintf(text.text, sizeof text.text, "%s %s, %s kernels", name, version, blas_corename());
    return text;
}

MachineText compiler_describe(void) {
    MachineText text;
#ifdef __clang__
    snprintf(text.text, sizeof text.text, "%s", __VERSION__);
#else
    snprintf(text.text, sizeof text.text, "gcc %s", __VERSION__);
#endif
    return text;
}

MachineText commit_describe(void) {
    MachineText unknown = {"unknown"}, text;
    char directory[512];
    ssize_t length = readlink("/proc/self/exe", directory, sizeof directory - 1);
    if (length <= 0) return unknown;
    directory[length] = 0;
    char *slash = strrchr(directory, '/');
    if (!slash) return unknown;
    *slash = 0;
    const char *const head[] = {"git", "-C", directory, "rev-parse", "--short=12", "HEAD", NULL};
    if (process_run(head, text.text, sizeof text.text, NULL) != 0) return unknown;
    text.text[strcspn(text.text, "\n")] = 0;

    /* Only what programs are made of: renewing committed CSV files must not look dirty. */
    const char *const diff[] = {"git",   "-C",    directory, "diff",    "--quiet",    "HEAD", "--",
                                ":/*.c", ":/*.h", ":/*.cu",  ":/*.cuh", ":/Makefile", NULL};
    char output[64];
    if (process_run(diff, output, sizeof output, NULL) == 1)
        strncat(text.text, "-dirty", sizeof text.text - strlen(text.text) - 1);
    return text;
}
