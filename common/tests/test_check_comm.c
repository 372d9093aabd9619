/*
 * Ranks find each other by every launcher's convention and compute what they should; where they
 * cannot, one message says why.
 */
#include "common/tests/test_check_comm.h"

#include "common/comm/comm.h"
#include "common/comm/environment.h"

#include <arpa/inet.h>

/* ---- collectives ---- */

Test(comm, by_sockets) {
    static const char *const expected[] = {"2 ranks by sockets: 594", "4 ranks by sockets: 666"};
    for (int i = 0; i < 2; i++) {
        Output ran = run_ranks(BY_LAUNCH, 2 + 2 * i, ARGUMENTS("--steps", "20"));
        expect(&ran, 0, expected[i]);
        cr_assert_eq(times_in(ran.out, "as they should be"), 1, "%s", ran.out);
    }
}

Test(comm, by_three_sockets) { /* what no count divides by */
    Output ran = run_ranks(BY_LAUNCH, 3, ARGUMENTS("--steps", "1"));
    expect(&ran, 0, "3 ranks by sockets");
}

Test(comm, by_mpi) {
    needs_mpi();
    static const char *const expected[] = {"2 ranks by MPI: 594", "4 ranks by MPI: 666"};
    for (int i = 0; i < 2; i++) {
        Output ran = run_ranks(BY_MPIRUN, 2 + 2 * i, ARGUMENTS("--steps", "20"));
        expect(&ran, 0, expected[i]);
    }
}

Test(comm, alone) {
    Process s = start_alone(ARGUMENTS("MASTER_PORT=1"), ARGUMENTS("--steps", "1"));
    Output ran = process_end(&s);
    expect(&ran, 0, "1 rank by one process: 190");
    Comm *comm = NULL;
    float data[3] = {1, 2, 3}, copy[3] = {0};
    comm_all_gather(comm, copy, data, 3, F32);
    comm_all_reduce(comm, copy, 3, F32, COMM_SUM);
    comm_close(comm_split(comm, 5));
    check_all(comm_size(comm) == 1, comm_rank(comm) == 0, copy[2] == 3,
              comm_sum_host(comm, 2.5) == 2.5, comm_agree(comm, 0, &err) == 0,
              comm_same(comm, "config", "a", &err) == 0);
}

/* Two ranks that share the first GPU, one rank by NCCL, two ranks on two GPUs. */
Test(comm, gpu_staged_cuda) {
    test_needs_gpu();
    Output ran = run_ranks(BY_LAUNCH, 2, ARGUMENTS("--device", "cuda", "--comm", "host"));
    expect(&ran, 0, "2 ranks by sockets, staged: 594");
}

Test(comm, nccl_of_one_cuda) {
    test_needs_gpu();
    Process s = start_alone(ARGUMENTS("RANK=0", "WORLD_SIZE=1"),
                            ARGUMENTS("--device", "cuda", "--comm", "nccl"));
    Output ran = process_end(&s);
    expect(&ran, 0, "1 rank by NCCL");
}

Test(comm, nccl_of_two_cuda) {
    test_needs_gpu();
    if (gpu_count() < 2) cr_skip_test("one GPU here, and NCCL wants one for each rank");
    Output ran = run_ranks(BY_LAUNCH, 2, ARGUMENTS("--device", "cuda"));
    expect(&ran, 0, "2 ranks by NCCL");
}

/* ---- who am I? ---- */

typedef struct Said {
    const char *environment[10];
    const char *expected; /* "rank of size, local rank, MPI or address:port or file"; or an error */
} Said;

static const Said said[] = {
    {{"OMPI_COMM_WORLD_RANK=3", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_RANK=1"},
     "3 of 4, local 1, MPI"},
    {{"RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=1", "MASTER_ADDR=10.0.0.7", "MASTER_PORT=1234"},
     "1 of 2, local 1, 10.0.0.7:1234"},
    {{"RANK=1", "WORLD_SIZE=2", "MASTER_PORT=1234", "TORCHELASTIC_USE_AGENT_STORE=True"},
     "1 of 2, local -1, 127.0.0.1:1235"},
    {{"SLURM_PROCID=5", "SLURM_STEP_NUM_TASKS=8", "SLURM_LOCALID=1", "SLURM_JOB_ID=4711",
      "SLURM_LAUNCH_NODE_IPADDR=10.1.0.1"},
     "5 of 8, local 1, 10.1.0.1:24711"},
    {{"SLURM_PROCID=5", "SLURM_STEP_NUM_TASKS=8", "SLURM_LOCALID=1", "SLURM_JOB_ID=4711",
      "PMIX_RANK=5"},
     "5 of 8, local 1, MPI"},
    {{"SLURM_PROCID=0", "SLURM_NTASKS=8", "SLURM_JOB_ID=4711"}, "0 of 1"}, /* the batch script */
    {{"PMI_RANK=1", "PMI_SIZE=3", "MASTER_ADDR=a"}, "1 of 3, local -1, a:29500"},
    {{"RANK=0", "WORLD_SIZE=2", "DEEPSEEK_BOOTSTRAP=/x/y"}, "0 of 2, local -1, /x/y"},
    {{"RANK=1"}, "0 of 1"}, /* of somebody else's */
    {{"RANK=2", "WORLD_SIZE=2"}, "RANK=2, which should be a number from 0 to 1"},
    {{"RANK=x", "WORLD_SIZE=2"}, "RANK=x"},
    {{"RANK=0", "WORLD_SIZE=2", "MASTER_PORT=70000"}, "MASTER_PORT=70000"},
};

Test(comm, environment) {
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        clearenv();
        for (int j = 0; said[i].environment[j]; j++) putenv((char *)said[i].environment[j]);
        Place p;
        char text[1300];
        if (environment_place(&p, &err))
            snprintf(text, sizeof text, "%s", err.text);
        else
            snprintf(text, sizeof text, "%d of %d, local %d, %s%s%.0d", p.rank, p.size,
                     p.local_rank,
                     p.mpi       ? "MPI"
                     : p.file[0] ? p.file
                                 : p.address,
                     p.mpi || p.file[0] ? "" : ":", p.mpi || p.file[0] ? 0 : p.port);
        cr_assert(strstr(text, said[i].expected), "%zu: '%s' should be '%s'", i, text,
                  said[i].expected);
    }
}

/* ---- meeting ---- */

static int port_of_its_own(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    close(net_listen(&at));
    return ntohs(at.sin_port);
}

static const char *text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *text_of(const char *format, ...) {
    char *text;
    va_list args;
    va_start(args, format);
    cr_assert(vasprintf(&text, format, args) > 0);
    va_end(args);
    return text;
}

/* Both ranks of two, by hand: what the environment of rank r is. */
static void two_by_hand(const char *const *first, const char *const *second) {
    Process s[2] = {start_alone(first, ARGUMENTS("--steps", "1")),
                    start_alone(second, ARGUMENTS("--steps", "1"))};
    Output ran[2] = {process_end(&s[0]), process_end(&s[1])};
    expect(&ran[0], 0, "2 ranks by sockets");
    cr_assert_eq(ran[1].status, 0, "%s", ran[1].err);
}

Test(comm, meet_by_slurm_and_by_pmi) {
    const char *job = text_of("SLURM_JOB_ID=%d", getpid() % 20000);
    two_by_hand(ARGUMENTS("SLURM_PROCID=0", "SLURM_STEP_NUM_TASKS=2", job),
                ARGUMENTS("SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", job));
    const char *port = text_of("MASTER_PORT=%d", port_of_its_own());
    two_by_hand(ARGUMENTS("PMI_RANK=0", "PMI_SIZE=2", port),
                ARGUMENTS("PMI_RANK=1", "PMI_SIZE=2", port));
}

/* A file of an earlier run lies there, and names a port at which nobody listens. */
Test(comm, meet_by_a_file_although_it_is_stale) {
    Scratch scratch = scratch_open();
    const char *stale = text_of("localhost %d seven\n", port_of_its_own());
    scratch_write(&scratch, "place", stale, strlen(stale));
    const char *file = text_of("DEEPSEEK_BOOTSTRAP=%s", scratch_path(&scratch, "place"));
    Process late = start_alone(ARGUMENTS("RANK=1", "WORLD_SIZE=2", file, "DEEPSEEK_JOB=seven"),
                               ARGUMENTS("--steps", "1"));
    usleep(300000);
    Process first = start_alone(ARGUMENTS("RANK=0", "WORLD_SIZE=2", file, "DEEPSEEK_JOB=seven"),
                                ARGUMENTS("--steps", "1"));
    Output a = process_end(&first), b = process_end(&late);
    expect(&a, 0, "2 ranks by sockets");
    expect(&b, 0, "");
    cr_assert_eq(scratch_count(&scratch), 0, "the file should be gone");
}

Test(comm, nobody_behind_the_file) {
    Scratch scratch = scratch_open();
    scratch_write(&scratch, "place", "localhost 9 x\n", 14);
    const char *file = text_of("DEEPSEEK_BOOTSTRAP=%s", scratch_path(&scratch, "place"));
    Process s = start_alone(ARGUMENTS("RANK=1", "WORLD_SIZE=2", file, "DEEPSEEK_JOB=x"),
                            ARGUMENTS("--timeout", "0.5"));
    Output ran = process_end(&s);
    expect(&ran, 1, "found no rank 0 of this job behind it");
}

Test(comm, nobody_comes) {
    const char *port = text_of("MASTER_PORT=%d", port_of_its_own());
    Process s =
        start_alone(ARGUMENTS("RANK=0", "WORLD_SIZE=3", port), ARGUMENTS("--timeout", "0.5"));
    Output ran = process_end(&s);
    expect(&ran, 1, "1 of 3 ranks are here after 0 s; missing: rank 1, 2");
    s = start_alone(ARGUMENTS("RANK=1", "WORLD_SIZE=3", port), ARGUMENTS("--timeout", "0.5"));
    ran = process_end(&s);
    expect(&ran, 1, "nobody listens at 127.0.0.1");
}

Test(comm, the_port_is_in_use) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = net_listen(&at);
    const char *port = text_of("MASTER_PORT=%d", ntohs(at.sin_port));
    Process s = start_alone(ARGUMENTS("RANK=0", "WORLD_SIZE=2", port), ARGUMENTS("--timeout", "5"));
    Output ran = process_end(&s);
    expect(&ran, 1, "Another job uses it; give each a MASTER_PORT of its own");
    s = start_alone(ARGUMENTS("RANK=1", "WORLD_SIZE=2", port), ARGUMENTS("--timeout", "0.5"));
    ran = process_end(&s); /* the listener accepts, and says nothing */
    expect(&ran, 1, "does not answer as rank 0");
    close(listener);
}

/* Another job's rank, one of another size, a second of one number, and what is no rank at all, come
 * to a port: they are sent away, and the job there goes on. */
Test(comm, strangers_at_the_port) {
    int number = port_of_its_own();
    const char *port = text_of("MASTER_PORT=%d", number);
    Process first = start_alone(ARGUMENTS("RANK=0", "WORLD_SIZE=3", port, "DEEPSEEK_JOB=a"),
                                ARGUMENTS("--steps", "1"));
    Process second = start_alone(ARGUMENTS("RANK=1", "WORLD_SIZE=3", port, "DEEPSEEK_JOB=a"),
                                 ARGUMENTS("--steps", "1"));
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)number)};
    int scanner = net_connect(&at, net_now() + 10);
    cr_assert(scanner >= 0 && net_send(scanner, "GET / HTTP/1.0\r\n\r\n", 18, net_now() + 1));
    close(scanner);
    usleep(300000);
    const char *const *strangers[] = {ARGUMENTS("RANK=2", "WORLD_SIZE=3", port, "DEEPSEEK_JOB=b"),
                                      ARGUMENTS("RANK=2", "WORLD_SIZE=4", port, "DEEPSEEK_JOB=a"),
                                      ARGUMENTS("RANK=1", "WORLD_SIZE=3", port, "DEEPSEEK_JOB=a")};
    static const char *const answers[] = {"another job (a) uses it", "the job there has 3 ranks",
                                          "there is a rank 1 already"};
    for (int i = 0; i < 3; i++) {
        Process s = start_alone(strangers[i], ARGUMENTS("--timeout", "10"));
        Output ran = process_end(&s);
        expect(&ran, 1, answers[i]);
    }
    Process third = start_alone(ARGUMENTS("RANK=2", "WORLD_SIZE=3", port, "DEEPSEEK_JOB=a"),
                                ARGUMENTS("--steps", "1"));
    Output a = process_end(&first), b = process_end(&second), c = process_end(&third);
    expect(&a, 0, "3 ranks by sockets");
    cr_assert(b.status == 0 && c.status == 0, "%s%s", b.err, c.err);
}

/* ---- bad input ---- */

Test(comm, more_ranks_than_gpus) {
    static const char *const many[] = {"--device", "cuda", "--comm", "nccl", NULL};
    int gpus = gpu_count();
    if (gpus >= RANKS_MOST) cr_skip_test("too many GPUs here");
    Output ran = run_ranks(BY_LAUNCH, gpus + 1, many);
    expect(&ran, 1, gpus ? "NCCL wants one for each" : "no usable GPU");
    cr_assert_eq(times_in(ran.err, "check_comm:"), 1, "once:\n%s", ran.err);
}

/* An mpirun of one MPI and a library of another: every process would think that it is alone. */
Test(comm, mpirun_of_another_mpi) {
    needs_mpi();
    Process s = start_alone(ARGUMENTS("OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=2"),
                            ARGUMENTS("--steps", "1"));
    Output ran = process_end(&s);
    expect(&ran, 1, "mpirun has started 2 ranks, and MPI's library knows of 1");
}

Test(comm, configs_differ) {
    Output ran = run_ranks(BY_LAUNCH, 3, ARGUMENTS("--fault", "differs", "--rank", "2"));
    expect(&ran, 1, "rank 2 (");
    expect(&ran, 1, "its config is not rank 0's: 'hidden_size 128' here, 'hidden_size 64' there");
    cr_assert_eq(times_in(ran.err, "check_comm:"), 1, "once:\n%s", ran.err);
}
