#!/bin/bash
# tools/racecheck.sh [PROGRAM]: the racecheck of NVIDIA's compute-sanitizer over the tests of every
# kernel written for Hopper, on such a GPU. First: make all CUDA=1 RACECHECK=1 (the barriers then
# arrive in a way that racecheck can follow: common/cuda/hopper.cuh says why). PROGRAM holds all
# tests where they are linked into one; else each is taken from build/cuda-racecheck.
#
# Only our kernels for Hopper are watched, by a part of their name; cuBLAS's own stay out of it.
# fp8_wgmma_kernel, a rung that nothing uses, is not: there the tool ends with an error of its own.
# Prints a line for each group of tests, and ends with 1 if racecheck found a hazard or could not
# look. SECONDS_EACH=N: how long a group may take (600).
cd "$(dirname "$0")/.." || exit 1
command -v compute-sanitizer >/dev/null || { echo "racecheck: compute-sanitizer is not in PATH; it comes with the CUDA toolkit" >&2; exit 1; }
log=$(mktemp); trap 'rm -f "$log"' EXIT
bad=0
while read -r program tests kernels; do
    run=${1:-build/cuda-racecheck/tests/$program}
    [ -x "$run" ] || { echo "racecheck: there is no $run: make all CUDA=1 RACECHECK=1" >&2; exit 1; }
    timeout "${SECONDS_EACH:-600}" compute-sanitizer --tool racecheck --kernel-name "kns=$kernels" \
        --target-processes all "$run" --filter "$tests" -j1 --quiet >"$log" 2>&1
    code=$?
    hazards=$(sed -n 's/.*RACECHECK SUMMARY: \([0-9]*\) hazards.*/\1/p' "$log" | awk '{s += $1} END {print NR ? s : "no summary"}')
    printf '%-36s %-52s exit %d, hazards: %s\n' "$program" "$tests" $code "$hazards"
    [ "$code $hazards" = "0 0" ] || { bad=1; grep -m5 -E "hazard|Error|error" "$log"; }
done <<'TESTS'
01_self_attention/test_matmul matmul/*_cuda_bf16 hopper_kernel
02_causal/test_causal causal/*_cuda_bf16 hopper_kernel
02_causal/test_causal_properties causal_properties/*_cuda_bf16 hopper_kernel
04_mla/test_mla_decode mla_decode/agrees*_cuda_bf16 hopper_kernel
04_mla/test_mla_decode mla_decode/eight_bits*_cuda_bf16 e4m3_hopper_kernel
04_mla/test_mla_decode mla_decode/sharp*_cuda_bf16 hopper_kernel
04_mla/test_mla_decode mla_decode/pages*_cuda_bf16 hopper_kernel
04_mla/test_mla_decode mla_decode/a_chunk*_cuda_bf16 hopper_kernel
05_moe/test_grouped grouped/*_cuda_bf16 hopper_kernel
05_moe/test_grouped_rungs grouped_rungs/*_cuda_bf16 hopper_kernel
08_quant/test_fp8 fp8/every_shape*_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/nan*_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/grouped*_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/weight_gradient_by_plain_loops_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/weight_gradient_is_added_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/weight_gradient_of_all_rows_cuda_bf16 fp8_kernel
08_quant/test_fp8 fp8/weight_gradient_of_all_rows_is_added_cuda_bf16 fp8_kernel
TESTS
exit $bad
