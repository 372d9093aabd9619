#!/bin/bash
# Draws the charts and drawings of the lessons again: tools/figures.sh [CHAPTER]
#
# NN_name/figures/NAME.py draws NAME.svg (tools/drawing.py). NN_name/figures/NAME.gp draws NN_name/figures/NAME.csv into NAME.svg, all three committed; the
# CSV's head says how it was made. The variables are those that common/program/plot.c gives the same
# scripts in the demos.
set -u
cd "$(dirname "$0")/.."
if ! command -v gnuplot >/dev/null; then
    echo "tools/figures.sh: gnuplot is missing; on Debian: apt-get install gnuplot-nox" >&2
    exit 1
fi
failed=0
for script in ${1:-[0-9][0-9]_*}/figures/*.gp; do
    [ -f "$script" ] || continue
    base=${script%.gp}
    if [ ! -f "$base.csv" ]; then
        echo "figures: $script has no $base.csv to draw" >&2
        failed=1
    elif gnuplot -e "data = '$base.csv'; out = '$base'; kind = 'svg'; " common/program/figures/style.gp "$script" </dev/null; then
        echo "figures: $base.svg"
    else
        echo "figures: $script failed" >&2
        failed=1
    fi
done
for script in ${1:-[0-9][0-9]_*}/figures/*.py; do
    [ -f "$script" ] || continue
    if PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tools python3 "$script"; then
        echo "figures: ${script%.py}.svg"
    else
        echo "figures: $script failed" >&2
        failed=1
    fi
done
exit $failed
