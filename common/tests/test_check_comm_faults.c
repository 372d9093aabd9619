/*
 * A rank that fails ends all of them, within ten seconds, with one message that says which it was,
 * and where and when.
 */
#include "common/tests/test_check_comm.h"

static const double LIMIT = 10; /* seconds from the fault to the end of all */

typedef struct Failure {
    const char *fault, *message;
} Failure;

/* Those in which a rank can still speak, or is seen to be gone. */
static const Failure failures[] = {
    {"exits", ": process"},
    {"killed", ": process"},
    {"disk", "step 10: out/last/model.safetensors: No space left on device"},
    {"nan", "step 10: the loss is not a number"},
    {"swapped", "step 10: in all-to-all, rank"},
};

/* "rank 1 (host), step 10". A rank that is gone without a word has told its last step half a second
 * before; the others know their own, and may be one behind. */
static bool names(const Output *ran, const char *who) {
    const char *at = strstr(ran->err, who), *step = at ? strstr(at, ", step ") : NULL;
    return step && (!strncmp(step, ", step 10:", 10) || !strncmp(step, ", step 9:", 9));
}

static void check_failure(By by, int ranks, const Failure *f, int rank) {
    char number[16], who[16];
    snprintf(number, sizeof number, "%d", rank);
    snprintf(who, sizeof who, "rank %d (", rank);
    Output ran = run_ranks(by, ranks, ARGUMENTS("--fault", f->fault, "--rank", number));
    cr_assert(ran.status != 0 && ran.seconds < LIMIT, "%s: status %d after %.1f s", f->fault,
              ran.status, ran.seconds);
    cr_assert(strstr(ran.err, f->message) && names(&ran, who), "%s of rank %d:\n%s", f->fault, rank,
              ran.err);
    cr_assert_eq(times_in(ran.err, "check_comm: rank"), 1, "once:\n%s", ran.err);
}

Test(comm_faults, end_all_with_one_message) {
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++)
        for (int rank = 0; rank < 3; rank++) check_failure(BY_LAUNCH, 3, &failures[i], rank);
}

Test(comm_faults, end_all_below_mpirun) {
    needs_mpi();
    static const Failure of_mpi[] = {{"disk", "step 10: out/last/model.safetensors: No space"},
                                     {"nan", "step 10: the loss is not a number"},
                                     {"swapped", "step 10: all-to-all: MPI_ERR_TRUNCATE"}};
    for (size_t i = 0; i < 2; i++)
        for (int rank = 0; rank < 2; rank++) check_failure(BY_MPIRUN, 2, &of_mpi[i], rank);
    /* mpirun hears of a death as soon as we do, and may end us before we have spoken; then it
     * speaks itself. Counts that differ are found by the one that gets too much or too little. */
    for (int rank = 0; rank < 2; rank++) {
        Output ran =
            run_ranks(BY_MPIRUN, 2, ARGUMENTS("--fault", "killed", "--rank", rank ? "1" : "0"));
        cr_assert(ran.status != 0 && ran.seconds < LIMIT);
        cr_assert(strstr(ran.err, rank ? "rank 1" : "rank 0"), "%s", ran.err);
        ran = run_ranks(BY_MPIRUN, 2, ARGUMENTS("--fault", "swapped", "--rank", rank ? "1" : "0"));
        cr_assert(ran.status != 0 && ran.seconds < LIMIT);
        cr_assert(strstr(ran.err, "all-to-all"), "%s", ran.err);
    }
}

/* The process stands still: no sign of life. */
Test(comm_faults, stopped) {
    Output ran = run_ranks(BY_LAUNCH, 3, ARGUMENTS("--fault", "stopped", "--rank", "2"));
    expect(&ran, 1, "rank 2 (");
    expect(&ran, 1, "no sign of life for 5 s");
    cr_assert(ran.seconds < LIMIT, "%.1f s", ran.seconds); /* the launcher has ended it */
}

/* It lives, and never comes. */
Test(comm_faults, spins) {
    Output ran =
        run_ranks(BY_LAUNCH, 3, ARGUMENTS("--fault", "spins", "--rank", "1", "--timeout", "1"));
    expect(&ran, 1, "rank 1 (");
    expect(&ran, 1, "step 10: process");
    expect(&ran, 1, "keeps the others waiting");
    cr_assert(ran.seconds < LIMIT, "%.1f s", ran.seconds);
}

/* A slow rank is none that has failed. */
Test(comm_faults, slow) {
    Output ran = run_ranks(BY_LAUNCH, 2, ARGUMENTS("--fault", "slow", "--timeout", "5"));
    expect(&ran, 0, "2 ranks by sockets");
    cr_assert(ran.seconds > 1 && !ran.err[0], "%.1f s\n%s", ran.seconds, ran.err);
}

/* ---- two hosts ---- */

/*
 * Two network namespaces, each with a name and an address of its own, joined by a cable. The script
 * makes them, runs a command in both (rank r in host r; or by mpirun, to which it lends a way to
 * the other host in the place of ssh), and removes them.
 */
static const char hosts_script[] =
    "a=dsa$$ b=dsb$$ d=$(mktemp -d); mkdir $d/0 $d/1\n"
    "{ trap 'ip netns del $a; ip netns del $b; rm -rf $d' EXIT\n"
    "  ip netns add $a && ip netns add $b &&\n"
    "  ip link add v$a netns $a type veth peer name v$b netns $b || exit 77; } 2>/dev/null\n"
    "name() { [ $1 = 0 ] && echo $a || echo $b; }\n"
    "on() { r=$1; shift; exec ip netns exec $(name $r) unshare --uts sh -c \\\n"
    "  'hostname host$0; export TMPDIR=$1; shift; exec \"$@\"' $r $d/$r \"$@\"; }\n"
    "for r in 0 1; do n=$(name $r)\n"
    "  ip -n $n addr add 10.77.0.$((r+1))/24 dev v$n; ip -n $n link set v$n up\n"
    "  ip -n $n link set lo up; done\n"
    "if [ $HOW = mpirun ]; then\n"
    "  { echo '#!/bin/bash'; echo \"a=$a b=$b d=$d\"; declare -f name on\n"
    "    echo 'r=$(( ${1##*.} - 1 )); shift; on $r sh -c \"$*\"'; } >$d/agent; chmod +x $d/agent\n"
    "  (on 0 mpirun --quiet --allow-run-as-root -n 2 --host 10.77.0.1:1,10.77.0.2:1 \\\n"
    "    --mca plm_rsh_agent $d/agent --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 \\\n"
    "    --mca oob_tcp_if_include 10.77.0.0/24 \"$@\"); exit $?; fi\n"
    "export WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 DEEPSEEK_JOB=two\n"
    "for r in 0 1; do (RANK=$r on $r \"$@\") & eval p$r=$!; done\n"
    "wait $p0; s=$?; wait $p1; exit $s\n";

static Output run_on_two_hosts(By by, const char *const *arguments) {
    Process s;
    char *program = check_comm_path();
    if (!on_path("ip") || !on_path("unshare") || geteuid())
        cr_skip_test("no network namespaces: that needs root, ip and unshare");
    if (!process_fork(&s, SIGTERM)) {
        Output ran = process_end(&s);
        if (ran.status == 77) cr_skip_test("no network namespaces: they are not allowed here");
        return ran;
    }
    no_ranks_in_environment();
    setenv("HOW", by == BY_MPIRUN ? "mpirun" : "sockets", 1);
    char *argv[WORDS] = {"bash", "-c", (char *)hosts_script, "hosts", program};
    for (int i = 0; arguments[i]; i++) argv[i + 5] = (char *)arguments[i];
    execvp("bash", argv);
    _exit(127);
}

Test(comm_faults, two_hosts) {
    Output ran = run_on_two_hosts(BY_LAUNCH, ARGUMENTS("--steps", "5"));
    expect(&ran, 0, "2 ranks by sockets: 594");
}

Test(comm_faults, two_hosts_by_mpirun) {
    needs_mpi();
    Output ran = run_on_two_hosts(BY_MPIRUN, ARGUMENTS("--steps", "5"));
    expect(&ran, 0, "2 ranks by MPI: 594");
    ran = run_on_two_hosts(BY_MPIRUN, ARGUMENTS("--fault", "disk"));
    cr_assert(ran.status != 0 && ran.seconds < LIMIT);
    cr_assert(strstr(ran.err, "rank 1 (host1), step 10: out/last"), "%s", ran.err);
}

Test(comm_faults, death_on_another_host) {
    for (int rank = 0; rank < 2; rank++) {
        Output ran =
            run_on_two_hosts(BY_LAUNCH, ARGUMENTS("--fault", "killed", "--rank", rank ? "1" : "0"));
        cr_assert(ran.status != 0 && ran.seconds < LIMIT);
        cr_assert(names(&ran, rank ? "rank 1 (host1)" : "rank 0 (host0)"), "%s", ran.err);
    }
}

/* ---- at random moments ---- */

static int children_of(pid_t pid, int *list, int most) {
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *file = fopen(path, "r");
    while (file && n < most && fscanf(file, "%d", &list[n]) == 1) n++;
    if (file) fclose(file);
    return n;
}

Test(comm_faults, killed_at_random_moments) {
    enum { RANKS = 3, TIMES = 20 };
    double worst = 0;
    for (int i = 0; i < TIMES; i++) {
        float random[2];
        for (int k = 0; k < 2; k++) random[k] = rng_uniform(16, 5, (uint64_t)(2 * i + k));
        Process s = start_ranks(BY_LAUNCH, RANKS,
                                ARGUMENTS("--fault", "slow", "--at", "0", "--steps", "1000000"));
        int pids[RANKS], victim = (int)(random[0] * RANKS) % RANKS;
        while (children_of(s.id, pids, RANKS) < RANKS) usleep(1000);
        usleep((useconds_t)(random[1] * 400000)); /* while they start, meet or compute */
        double killed = net_now();
        kill(pids[victim], SIGKILL);
        Output ran = process_end(&s);
        double seconds = net_now() - killed;
        worst = seconds > worst ? seconds : worst;
        cr_assert(ran.status != 0 && seconds < LIMIT, "%d: status %d, %.1f s", i, ran.status,
                  seconds);
        cr_assert(times_in(ran.err, "\n") == 1 && strstr(ran.err, "rank "), "%d, rank %d:\n%s", i,
                  victim, ran.err);
        for (int r = 0; r < RANKS; r++)
            cr_assert(kill(pids[r], 0) != 0, "%d: rank %d is left over", i, r);
    }
    cr_log_info("from a rank's death to the end of all: %.2f s at most", worst);
}

/* ---- the launcher ---- */

/* Ctrl-C is passed on to every rank, once. */
Test(comm_faults, interrupted) {
    Process s =
        start_ranks(BY_LAUNCH, 2, ARGUMENTS("--fault", "slow", "--at", "0", "--steps", "1000000"));
    int pids[2];
    while (children_of(s.id, pids, 2) < 2) usleep(1000);
    usleep(200000);
    kill(s.id, SIGINT);
    Output ran = process_end(&s);
    cr_assert(ran.status == 128 + SIGINT && ran.seconds < LIMIT, "%d\n%s", ran.status, ran.err);
    cr_assert(!ran.err[0] || !strstr(ran.err, "ended by signal"), "%s", ran.err);
}

/* Without its launcher nothing goes on. */
Test(comm_faults, launcher_killed) {
    Process s =
        start_ranks(BY_LAUNCH, 2, ARGUMENTS("--fault", "slow", "--at", "0", "--steps", "1000000"));
    int pids[2];
    while (children_of(s.id, pids, 2) < 2) usleep(1000);
    usleep(200000);
    kill(s.id, SIGKILL);
    process_end(&s);
    for (int i = 0; i < 2; i++) {
        double deadline = net_now() + 5;
        while (kill(pids[i], 0) == 0 && net_now() < deadline) usleep(10000);
        cr_assert(kill(pids[i], 0) != 0, "rank %d goes on", i);
    }
}
