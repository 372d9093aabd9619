#!/bin/bash
# clang-format for every source: tools/format.sh [--check] [FILE...]. The style is in .clang-format.
# It leaves comments as they are, so lines over its 100 columns are looked for, too; those are yours to mend.
# Without FILE the lessons' prose is kept within 120 columns, too (tools/wrap.py).
set -u
check=
lessons=0
if [ "${1:-}" = --check ]; then check=1; shift; fi
if ! command -v clang-format >/dev/null; then
    echo "tools/format.sh: clang-format is missing; on Debian: apt-get install clang-format" >&2
    exit 1
fi
if [ $# -gt 0 ]; then files=("$@"); else
    tools/wrap.py ${check:+--check} || lessons=1
    mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
fi
one='for f; do [ ! -f "$f" ] || clang-format "$f" | cmp -s - "$f" || { [ "$0" = check ] || clang-format -i "$f"; echo "$f"; }; done'
changed=$(printf '%s\0' "${files[@]}" | xargs -0 -r -n 8 -P "$(nproc)" bash -c "$one" "${check:+check}" | sort)
long=$(printf '%s\0' "${files[@]}" | LC_ALL=C.UTF-8 xargs -0 -r grep -HnoEs '^.{101}' | cut -d: -f1,2)
if [ -z "$changed$long" ]; then
    echo "format: ${#files[@]} files as clang-format has them"
elif [ -n "$changed" ]; then
    printf "format: ${check:+not as clang-format has it (make format): }%s\n" $changed
fi
[ -z "$long" ] || printf 'format: %s: over 100 columns\n' $long
[ "$lessons" = 0 ] && [ -z "$long" ] && { [ -z "$check" ] || [ -z "$changed" ]; }
