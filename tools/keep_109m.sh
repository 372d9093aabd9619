#!/bin/bash
# Keeps what 10_full_model/RUN_109M.md quotes of a run: tools/keep_109m.sh OUT [COMMIT]
#
# OUT holds what three scripts have left: OUT/109m (train_109m.sh), OUT/judged (judge_109m.sh) and OUT/compare
# (compare_109m.sh; OUT/rate is that of another learning rate); one that is not there is passed over. Their tables become
# CSVs in 10_full_model/figures, the thousands of steps thinned (tools/thin.py). COMMIT: of the program, where it was
# built outside of a repository and could not tell. Then: make figures && make lesson-sync.
set -euo pipefail
out=$(realpath "${1:?usage: tools/keep_109m.sh OUT [COMMIT]}")
commit=${2:-}
cd "$(dirname "$0")/.."
figures=${FIGURES:-10_full_model/figures} # another folder: to look at before anything is kept
mkdir -p "$figures"/run_109m

# Stdin to a file, with the commit.
keep() {
    if [ -n "$commit" ]; then sed "s/^# commit: unknown/# commit: $commit/" >"$1"; else cat >"$1"; fi
    echo "$1: $(grep -vc '^#' "$1") lines"
}

if [ -d "$out/109m" ]; then
    tokens=$(sed -n 's/.*, of a step: \([0-9]*\),.*/\1/p' "$out/109m/plan")
    metrics=$out/109m/model/metrics.csv
    tools/thin.py --tokens "$tokens" --columns step,loss,validation_loss,mtp_loss_1 "$metrics" | keep "$figures"/run_109m_loss.csv
    tools/thin.py --tokens "$tokens" --columns step,learning_rate,gradient_norm,tokens_per_second,share_of_peak,max_vio,idle_experts \
        "$metrics" | keep "$figures"/run_109m_step.csv
    { sed -n '/^#/p' "$metrics"; cat "$out/109m/pieces.csv"; } | keep "$figures"/run_109m/pieces.csv
    keep "$figures"/run_109m/places.csv <"$out/109m/positions.csv"
    [ ! -e "$out/109m/tasks.csv" ] || awk -F, '/^#/ || /^kind/ || $4 == 1 || $1 == "words"' "$out/109m/tasks.csv" |
        keep "$figures"/run_109m/tasks.csv
    [ ! -e "$out/109m/tasks.csv" ] || awk -F, -v OFS=, '/^#/ { print; next }
        /^kind/ || ($1 == "pairs" && $4 == 0) { print $2, $3, $5, $7, $8 }' "$out/109m/tasks.csv" | keep "$figures"/run_109m/pairs.csv
fi
for name in quantised speculative sparse warm trained; do
    [ ! -e "$out/judged/$name.csv" ] && continue
    case $name in
    warm | trained) tools/thin.py --rows 50 "$out/judged/$name.csv" ;;
    *) cat "$out/judged/$name.csv" ;;
    esac | keep "$figures"/run_109m/$name.csv
done
[ ! -e "$out/judged/yarn.csv" ] || keep "$figures"/run_109m_positions.csv <"$out/judged/yarn.csv"
[ ! -e "$out/compare/compare.csv" ] || keep "$figures"/run_109m_compare.csv <"$out/compare/compare.csv"
[ ! -e "$out/bench_mtp1.csv" ] || keep "$figures"/run_109m/bench.csv <"$out/bench_mtp1.csv" # 10_full_model/bench --mtp 1
[ ! -e "$out/rate/models.csv" ] || keep "$figures"/run_109m/rate.csv <"$out/rate/models.csv"
if [ -e "$out/compare/models.csv" ]; then # every ten steps of each model
    {
        sed -n '/^#/p' "$out/compare/models.csv"
        echo model,step,loss,learning_rate,max_vio
        for name in $(sed '/^#/d;/^model,/d;s/,.*//' "$out/compare/models.csv"); do
            tools/thin.py --every 10 --columns step,loss,learning_rate,max_vio "$out/compare/$name.csv" | sed -n "s/^[0-9]/$name,&/p"
        done
    } | keep "$figures"/run_109m/steps.csv
fi
[ ! -e "$out/compare/models.csv" ] || keep "$figures"/run_109m/models.csv <"$out/compare/models.csv"
