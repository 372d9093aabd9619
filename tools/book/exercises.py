"""A chapter's exercises for its page: the task, two hints on request, and, where numbers are to be
predicted, fields that the page grades.

The answers come from exercises/solutions/: a program that includes one prints its numbers. In the
page they are not to be read by accident, so they stand there in base64. A whole number must be
exact, another one within a thousandth; `make learn` has each exercise's own limits.
"""

import base64
import html
import json
import re
import subprocess
import tempfile
import textwrap

from build import ROOT, chapters
from learn import exercises_in, opening_comment

CONSTANT = re.compile(r"^const (long long|long|int|float|double) (\w+)(?:\[(\d+)\])? =", re.M)


def answers(e):
    """[(name, whole?, value)] of the constants in the exercise's stub."""
    if e.stub.suffix != ".c":
        return []
    names = [(m[2], int(m[3] or 0), m[1]) for m in CONSTANT.finditer(e.stub.read_text())]
    if not names:
        return []
    prints = "".join(
        f'printf("%.17g\\n", (double){n}{f"[{i}]" if count else ""});'
        for n, count, _ in names
        for i in range(count or 1)
    )
    with tempfile.TemporaryDirectory() as folder:
        main = f"{folder}/main.c"
        with open(main, "w") as file:
            file.write(
                f'#include "{e.solution}"\n#include <stdio.h>\nint main(void) {{ {prints} }}\n'
            )
        # The functions of a mixed exercise may call the chapter's: they are not called here.
        subprocess.run(
            ["gcc", "-w", "-I.", "-O1", main, "-o", f"{folder}/main", "-lm", "-Wl,--unresolved-symbols=ignore-all"],
            cwd=ROOT, check=True,
        )  # fmt: skip
        values = subprocess.run(
            [f"{folder}/main"], capture_output=True, text=True, check=True
        ).stdout.split()
    labels = [
        (f"{n}[{i}]" if count else n, t in ("int", "long", "long long"))
        for n, count, t in names
        for i in range(count or 1)
    ]
    return [(label, whole, float(v)) for (label, whole), v in zip(labels, values)]


def paragraphs(lines):
    """The task: prose in paragraphs; what is indented keeps its lines."""
    text = "\n".join(line for line in lines if not re.match(r"(POINTS|REPLACES|TESTS):", line))
    text = re.sub(r"\A\s*Exercise [^\n]*\n", "", text).strip("\n")
    out = []
    for part in re.split(r"\n\s*\n", text):
        tag = "pre" if re.search(r"^ {2,}\S", part, re.M) else "p"
        out.append(f"<{tag}>{html.escape(textwrap.dedent(part.strip(chr(10))), quote=False)}</{tag}>")
    return "".join(out)


def form(e, values):
    secret = base64.b64encode(json.dumps([[w, v] for _, w, v in values]).encode()).decode()
    rows = "".join(
        f'<label>{html.escape(name)} <input type="text" inputmode="decimal" maxlength="24" autocomplete="off">'
        f"<output></output></label>"
        for name, _, _ in values
    )
    return f'<form class="predict" data-answers="{secret}"><div class="fields">{rows}</div><button>check</button><p class="verdict" role="status"></p></form>'


def card(e):
    lines, _ = opening_comment(e.stub.read_text())
    hints = "".join(
        f"<details><summary>{label}</summary><p>{html.escape(h, quote=False)}</p>"  # the second in the first
        for label, h in zip(("a hint", "a hint that says more"), e.hints)
    )
    values = answers(e)
    points = f"{e.points} point{'s' if e.points > 1 else ''}"
    return (
        f'<details class="exercise" id="exercise-{e.short}"><summary>{html.escape(e.title)} <span>{points}</span></summary>'
        f'{paragraphs(lines)}{form(e, values) if values else ""}'
        f'<p>In <a href="exercises/{e.stub.name}">exercises/{e.stub.name}</a>; <code>make learn CH={e.short}</code> grades it.</p>'
        f"{hints}{'</details>' * len(e.hints)}</details>"
    )


def by_chapter():
    return {
        c: f'<section class="exercises">{"".join(card(e) for e in exercises_in(c))}</section>'
        for c in chapters()
        if (ROOT / c / "exercises").is_dir()
    }
