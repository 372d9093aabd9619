#!/bin/bash
# tools/racecheck.sh [PROGRAM]: the racecheck of NVIDIA's compute-sanitizer over the tests of every
# kernel written for Hopper, on such a GPU. First: make all CUDA=1 RACECHECK=1 (the barriers then
# arrive in a way that racecheck can follow: common/cuda/hopper.cuh says why). PROGRAM holds all
# tests where they are linked into one; else each is taken from build/cuda-racecheck.
#
# Only kernels named ..hopper_kernel are watched, so cuBLAS's own stay out of it. Prints a line
# for each group of tests, and ends with 1 if racecheck found a hazard or could not look.
cd "$(dirname "$0")/.." || exit 1
command -v compute-sanitizer >/dev/null || { echo "racecheck: compute-sanitizer is not in PATH; it comes with the CUDA toolkit" >&2; exit 1; }
log=$(mktemp); trap 'rm -f "$log"' EXIT
bad=0
while read -r program tests; do
    run=${1:-build/cuda-racecheck/tests/$program}
    [ -x "$run" ] || { echo "racecheck: there is no $run: make all CUDA=1 RACECHECK=1" >&2; exit 1; }
    timeout "${SECONDS_EACH:-600}" compute-sanitizer --tool racecheck --kernel-name kns=hopper_kernel \
        --target-processes all "$run" --filter "$tests" -j1 --quiet >"$log" 2>&1
    code=$?
    hazards=$(sed -n 's/.*RACECHECK SUMMARY: \([0-9]*\) hazards.*/\1/p' "$log" | awk '{s += $1} END {print NR ? s : "no summary"}')
    printf '%-45s %-28s exit %d, hazards: %s\n' "$program" "$tests" $code "$hazards"
    [ "$code $hazards" = "0 0" ] || { bad=1; grep -m5 -E "hazard|Error|error" "$log"; }
done <<'TESTS'
01_self_attention/test_matmul matmul/*_cuda_bf16
02_causal/test_causal causal/*_cuda_bf16
02_causal/test_causal_properties causal_properties/*_cuda_bf16
04_mla/test_mla_decode mla_decode/*_cuda_bf16
05_moe/test_grouped grouped/*_cuda_bf16
05_moe/test_grouped_rungs grouped_rungs/*_cuda_bf16
TESTS
exit $bad
