"""A chapter's exercises for its page: the task, two hints on request, and, where numbers are to be
predicted, fields that the page grades.

The answers come from exercises/solutions/: a program that includes one prints its numbers. In the
page they are not to be read by accident, so they stand there in base64. A whole number must be
exact, another one within half a percent; `make learn` has each exercise's own limits.
"""

import base64
import html
import json
import pathlib
import re
import subprocess
import tempfile
import textwrap

from build import ROOT, chapters, fail
from learn import exercises_in, opening_comment

CONSTANT = re.compile(r"^const (long long|long|int|float|double) (\w+)(?:\[(\d+)\])? =", re.M)


def printed(source, names):
    """What a program with this C text before it prints of these constants; None: it cannot be made."""
    prints = "".join(f'printf("%.17g\\n", (double){name});' for name in names)
    with tempfile.TemporaryDirectory() as folder:
        main = pathlib.Path(folder, "main.c")
        main.write_text(f"{source}\n#include <stdio.h>\nint main(void) {{ {prints} }}\n")
        made = subprocess.run(
            ["gcc", "-w", "-I.", "-O1", main, "-o", f"{folder}/main", "-lm"],
            cwd=ROOT,
            capture_output=True,
        )
        if made.returncode:
            return None
        return subprocess.run(
            [f"{folder}/main"], capture_output=True, text=True, check=True
        ).stdout.split()


def answers(e):
    """[(name, whole?, value)] of the constants in the exercise's stub."""
    constants = CONSTANT.findall(e.stub.read_text()) if e.stub.suffix == ".c" else []
    if not constants:
        return []
    names = [f"{n}[{i}]" if size else n for _, n, size in constants for i in range(int(size or 1))]
    whole = [
        t in ("int", "long", "long long") for t, _, size in constants for _ in range(int(size or 1))
    ]
    # The solution as it is; or, where it calls the chapter's functions, its constants alone.
    text = e.solution.read_text()
    lines = re.findall(r"^(?:#|enum|const)(?:[^;\n]*\n)*?[^;\n]*(?:;|(?<=>)$|(?<=\")$)", text, re.M)
    for source in (f'#include "{e.solution}"', "#include <math.h>\n" + "\n".join(lines)):
        values = printed(source, names)
        if values:
            return [(n, w, float(v)) for n, w, v in zip(names, whole, values)]
    fail(f"the numbers of exercise {e.short} cannot be printed: see {e.solution.relative_to(ROOT)}")


def paragraphs(lines):
    """The task: prose in paragraphs; what is indented keeps its lines."""
    text = "\n".join(line for line in lines if not re.match(r"(POINTS|REPLACES|TESTS):", line))
    text = re.sub(r"\A\s*Exercise [^\n]*\n", "", text).strip("\n")
    out = []
    for part in re.split(r"\n\s*\n", text):
        tag = "pre" if re.search(r"^ {2,}\S", part, re.M) else "p"
        out.append(
            f"<{tag}>{html.escape(textwrap.dedent(part.strip(chr(10))), quote=False)}</{tag}>"
        )
    return "".join(out)


def form(e, values):
    secret = base64.b64encode(json.dumps([[w, v] for _, w, v in values]).encode()).decode()
    rows = "".join(
        f'<label>{html.escape(name)} <input type="text" inputmode="decimal" maxlength="24" autocomplete="off">'
        f"<output></output></label>"
        for name, _, _ in values
    )
    return (
        f'<form class="predict" data-answers="{secret}"><div class="fields">{rows}</div>'
        '<button>check</button><p class="verdict" role="status"></p></form>'
    )


def card(e):
    lines, _ = opening_comment(e.stub.read_text())
    hints = "".join(
        f"<details><summary>{label}</summary><p>{html.escape(h, quote=False)}</p>"  # the second in the first
        for label, h in zip(("a hint", "a hint that says more"), e.hints)
    )
    values = answers(e)
    points = f"{e.points} point{'s' if e.points > 1 else ''}"
    return (
        f'<details class="exercise" id="exercise-{e.short}">'
        f"<summary>{html.escape(e.title)} <span>{points}</span></summary>"
        f'{paragraphs(lines)}{form(e, values) if values else ""}'
        f'<p>In <a href="exercises/{e.stub.name}">exercises/{e.stub.name}</a>; '
        f"<code>make learn CH={e.short}</code> grades it.</p>"
        f"{hints}{'</details>' * len(e.hints)}</details>"
    )


def by_chapter():
    return {
        c: f'<section class="exercises">{"".join(card(e) for e in exercises_in(c))}</section>'
        for c in chapters()
        if (ROOT / c / "exercises").is_dir()
    }
