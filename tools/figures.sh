#!/bin/bash
# Draws the charts and drawings of the lessons again: tools/figures.sh [CHAPTER]
#
# NN_name/figures/NAME.py draws NAME.svg (tools/drawing.py). NN_name/figures/NAME.gp draws NAME.csv, or the CSV file of
# that folder that a line "# data: FILE" in it names, into NAME.svg, all three committed; the CSV's head says how it was
# made. A chart of numbers that a table shows, too, names the table's file: so both are of one run. The variables are those that common/program/plot.c gives the same
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
    named=$(sed -n 's/^# data: //p' "$script")
    data=${script%/*}/${named:-${base##*/}.csv}
    if [ ! -f "$data" ]; then
        echo "figures: $script has no $data to draw" >&2
        failed=1
    elif gnuplot -e "data = '$data'; out = '$base'; kind = 'svg'; " common/program/figures/style.gp "$script" </dev/null; then
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
