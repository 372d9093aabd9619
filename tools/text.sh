#!/bin/bash
# Writes the text that the demos learn: tools/text.sh FILE. `make corpus` makes
# build/corpus/bible.txt.
#
# It is the King James Bible as the program `bible` (package bible-kjv) prints it, one verse a
# line: 31,102 lines, 4.4 MB.
set -eu
out=${1:?usage: tools/text.sh FILE}

if ! command -v bible >/dev/null; then
    echo "tools/text.sh: the program 'bible' is missing. Install the package bible-kjv (make demo does it on Debian), or put" >&2
    echo "any English text of a few megabytes at $out" >&2
    exit 1
fi
mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.part"' EXIT
bible -f gen1:1-rev22:21 >"$out.part" </dev/null
lines=$(wc -l <"$out.part")
if [ "$lines" -ne 31102 ]; then
    echo "tools/text.sh: 'bible -f gen1:1-rev22:21' gave $lines lines instead of 31102; is another program called bible?" >&2
    exit 1
fi
mv "$out.part" "$out"
