#!/bin/bash
# Installs what is missing: tools/setup.sh [build|test|demo|mpi|book|book-test]
#
# On Debian and its kin the packages are installed with apt-get (by sudo when we are not root).
# Elsewhere, or without the right to install, it lists them. It fails only when something is
# missing that the purpose cannot do without. When nothing is missing it says nothing and takes a few
# milliseconds. make runs it; SETUP=0 keeps it from doing so. Open MPI is installed by `mpi` alone, what
# the book needs when it is made, and the browsers that test it by `book-test`: they are large.
set -u
purpose=${1:-build}

# how to find it | Debian package | needed by | what it is for (and its name on Fedora, Arch)
parts='
command gcc          | build-essential        | build test demo book book-test | the C compiler (gcc)
command g++          | build-essential        | build test demo | the C++ compiler, which nvcc uses (gcc-c++)
command pkg-config   | pkg-config             |                 | finds the libraries (pkgconf)
library openblas     | libopenblas-openmp-dev | build test demo | matrix products on the CPU (openblas-devel, openblas)
library libcjson     | libcjson-dev           | build test demo | reads JSON: tokenizers and checkpoints (cjson-devel, cjson)
library oniguruma    | libonig-dev            | build test demo | splits text into words for the tokenizer (oniguruma-devel, oniguruma)
library criterion    | libcriterion-dev       | test            | the tests (criterion-devel, criterion)
command python3      | python3                | test book book-test | runs the tests and checks exercises; no packages needed (python3)
command bible        | bible-kjv              | demo            | the text that the demo learns: the King James Bible
command gnuplot      | gnuplot-nox            |                 | draws the charts (gnuplot)
command git          | git                    |                 | names the commit in the head of CSV files (git)
command mpirun       | openmpi-bin            | mpi             | starts several ranks, on several hosts (openmpi)
library ompi-c       | libopenmpi-dev         | mpi             | what they speak through (openmpi-devel, openmpi)
command pandoc       | pandoc                 | book book-test  | reads the lessons (pandoc)
command clang-14     | clang-14               | book book-test  | compiles the chapters to WebAssembly (clang)
command wasm-ld-14   | lld-14                 | book book-test  | links them (lld)
file /usr/lib/wasm32-wasi/libc.a | wasi-libc  | book book-test  | their C library (wasi-libc-static, wasi-libc)
file /usr/lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a | libclang-rt-14-dev-wasm32 | book book-test | and what the compiler calls (wasi-compiler-rt)
command chromium     | chromium               | book-test       | the browser in which the book is tested (chromium)
command firefox-esr  | firefox-esr            | book-test       | the other one (firefox)
'

is_there() { # command|library|file NAME
    [ "$2" != bible ] || [ ! -f build/corpus/bible.txt ] || return 0 # the text has been written already
    if [ "$1" = command ]; then command -v "$2" >/dev/null; elif [ "$1" = file ]; then [ -e "$2" ]; else pkg-config --exists "$2" 2>/dev/null; fi
}

missing_parts() { # the lines of `parts` that are not there
    # One question for all libraries first: asking for each costs more than all the rest together.
    local libraries_there=no
    pkg-config --exists openblas libcjson oniguruma criterion 2>/dev/null && libraries_there=yes
    while IFS='|' read -r how package needed why; do
        [ -n "$how" ] || continue
        [ "${needed// /}" != mpi ] || [ "$purpose" = mpi ] || continue
        [[ "$needed" != *book* || " $needed " == *" $purpose "* ]] || continue
        read -r kind name <<<"$how"
        [ "$kind $libraries_there $name" = "library yes ${name/ompi-c/}" ] || is_there "$kind" "$name" || echo "$kind $name|$package|$needed|$why"
    done <<<"$parts"
}

missing=$(missing_parts)
[ -n "$missing" ] || exit 0

# Nothing that this needs is missing, and we could not install the rest last time either: do not
# say so again.
needed() { awk -F'|' -v p="$purpose" '$3 ~ "(^| )" p "( |$)"' <<<"$missing"; }
told=build/setup.told
[ -n "$(needed)" ] || [ "$missing" != "$(cat $told 2>/dev/null)" ] || exit 0

list() { while IFS='|' read -r _ package _ why; do printf '  %-22s %s\n' ${package// /} "${why# }"; done <<<"$missing" | sort -u; }
packages=$(cut -d'|' -f2 <<<"$missing" | sort -u | tr -s ' \n' ' ')

echo "These parts are missing here:" >&2
list >&2
if command -v apt-get >/dev/null; then
    as_root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then as_root=none
        elif sudo -n true 2>/dev/null; then as_root="sudo -n"
        elif [ -t 2 ] && [ -r /dev/tty ]; then as_root=sudo
        else as_root=none; fi
    fi
    if [ "$as_root" = none ]; then
        echo "I may not install them: neither root nor sudo. Ask someone who may to run
  apt-get install${packages% }" >&2
    else
        echo "Installing them:  ${as_root:+$as_root }apt-get install${packages% }" >&2
        log=$(mktemp)
        apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1; }
        # Fresh machines have no package lists, and old lists name packages that are gone: then
        # update and try once more. shellcheck disable=SC2086
        apt install -y --no-install-recommends $packages ||
            { apt update; apt install -y --no-install-recommends $packages; } ||
            { tail -n 5 "$log"; echo "apt-get did not manage; the last lines of its output are above."; } >&2
        rm -f "$log"
    fi
else
    echo "This is not Debian or a system like it: install them with your package manager (names for Fedora and Arch are in
parentheses), then run make again." >&2
fi

missing=$(missing_parts)
[ -n "$missing" ] || { echo "Done." >&2; exit 0; }
mkdir -p build && echo "$missing" >$told
missing_here=$(needed)
[ -n "$missing_here" ] || { echo "It works without these." >&2; exit 0; }
missing=$missing_here
echo "Still missing, and needed for this:" >&2
list >&2
exit 1
