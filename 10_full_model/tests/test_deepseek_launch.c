/*
 * deepseek launch: what it starts, prints and refuses. How ranks end is in common/tests.
 */
#include "10_full_model/tests/test_deepseek.h"

#define TRAIN "train", "--data", "my text's.txt", "--out", "out/x"

Test(deepseek, launch_needs_a_command) {
    EXPECT(2, "which command? It stands behind --", "launch", "-n", "2");
    EXPECT(2, "which command? It stands behind --", "launch", "-n", "2", "--");
    EXPECT(2, "--ranks", "launch", "--", TRAIN);
    EXPECT(2, "--ranks: 0 is not between", "launch", "-n", "0", "--", TRAIN);
    EXPECT(2, "--nodes is for --batch-script", "launch", "-n", "4", "--nodes", "2", "--", TRAIN);
}

Test(deepseek, launch_starts_what_knows_ranks) {
    Output o = EXPECT(1, "info runs alone, and this is rank 0 of 2", "launch", "-n", "2", "--",
                      "info", "--config", "v3");
    cr_assert(!strstr(strstr(o.err, "info") + 1, "info"), "once: %s", o.err);
    EXPECT(1, "/nothing: No such file", "launch", "-n", "2", "--", "/nothing");
    EXPECT(2, "there is no command 'nothing'", "launch", "-n", "3", "--", "nothing");
}

Test(deepseek, launch_prints_a_job) {
    Output o = EXPECT(0, "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n", "launch", "-n", "8",
                      "--nodes", "2", "--batch-script", "slurm", "--", TRAIN, "--device", "cuda");
    expect(&o, 0, "train --data 'my text'\\''s.txt' --out out/x --device cuda\n");
    expect(&o, 0, "#SBATCH --gpus-per-node=4\n");
    EXPECT(2, "-n 3 cannot be shared out evenly over 2 nodes", "launch", "-n", "3", "--nodes", "2",
           "--batch-script", "slurm", "--", TRAIN);
    /* bash can read it, and srun is what it calls. */
    Scratch scratch = scratch_open();
    char command[700];
    snprintf(
        command, sizeof command,
        "cd %s && printf '#!/bin/sh\\nfor a; do echo \"[$a]\"; done\\n' >srun && chmod +x srun && "
        "PATH=.:$PATH SLURM_CPUS_PER_TASK=8 bash %s 2>/dev/null | grep -q \"my text's.txt\"",
        scratch.directory, scratch_write(&scratch, "job", o.out, strlen(o.out)));
    cr_assert(system(command) == 0, "%s\n%s", command, o.out);
}

Test(deepseek, launch_on_other_hosts) {
    EXPECT(1, "other hosts are reached by mpirun, which is not here", "launch", "-n", "4",
           "--hosts", "a,b", "--", TRAIN); /* PATH is empty */
    EXPECT(1, "-n 3 cannot be shared out evenly over the 2 hosts of --hosts; 4 can", "launch", "-n",
           "3", "--hosts", "a,b", "--", TRAIN);
}
