"""The chapters' figures that answer: NN_name/web/.

    figures.c     what a page can ask (common/program/web.h says how), on the chapter's own functions
    figures.js    how it is asked and how the answer is drawn: figure('NAME', { ... }), a call each

clang compiles the chapter, those below it and common/ for wasm32-wasi: all but what needs a machine
(HOST below), with tools/book/wasm/ in the place of OpenMP, OpenBLAS and glibc's extras. A program
holds only what its figures reach. It goes into a script as text, compressed: a page that was opened
from the disk may run its scripts, but may not fetch().
"""

import base64
import concurrent.futures
import dataclasses
import gzip
import html
import os
import pathlib
import re
import shutil
import subprocess

from build import ROOT, chapters, fail

WASM = pathlib.Path(__file__).resolve().parent / "wasm"
OBJECTS = ROOT / "build/wasm"
CLANG = shutil.which("clang-14") or "clang"
FLAGS = f"""--target=wasm32-wasi -msimd128 -std=gnu11 -O2 -fno-math-errno -ffunction-sections -fdata-sections -w
-I. -I{WASM.relative_to(ROOT)} -include {WASM.relative_to(ROOT)}/glibc.h -D_WASI_EMULATED_MMAN
-D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS""".split()
LINK = """--target=wasm32-wasi -mexec-model=reactor -Wl,--strip-all -Wl,-z,stack-size=2097152
-Wl,--export=web_input -Wl,--export=web_answer -Wl,--export=web_room -lwasi-emulated-mman
-lwasi-emulated-signal -lwasi-emulated-process-clocks -lm""".split()
# What asks for more than memory: files, processes, terminals, threads, flags, LAPACK.
HOST = re.compile(
    r"common/(files/|comm/(?!comm\.|comm_open|comm_gpu_none)|core/(blas|bench_)"
    r"|program/(?!web\.|progress\.)|text/(?!sampler))|08_quant/methods/gptq"
    r"|10_full_model/(?!model/(?!config_json|config_others)|sparse/)"
)
# What did not compile, and why: it matters when a figure needs it, and then the linker misses it.
FAILED = {}
FIGURE = re.compile(r"^figure\('(\w+)', \{$(.*?)^\}\);$", re.M | re.S)


@dataclasses.dataclass
class Figure:
    chapter: str
    name: str
    title: str
    at: str  # a picture of the lesson, or parts of headings, a | between them: the first found
    page: str
    picture: str

    def place(self, body):
        """Where in the lesson's HTML it goes: behind the picture, or at the end of what stands under the
        heading. None when there is no such place.
        """
        if self.at.endswith(".svg"):
            shown = re.search(
                rf'<figure><div class="wide"><img[^>]*?\ssrc="{re.escape(self.at)}".*?</figure>(<details class="numbers">.*?</details>)?',
                body,
                re.S,
            )
            return shown.end() if shown else None
        headings = list(re.finditer(r"<h([23]) id=.*?</h\1>", body, re.S))
        for wanted in self.at.lower().split("|"):
            for heading, after in zip(headings, [*headings[1:], None]):
                if wanted in html.unescape(re.sub("<[^>]*>", "", heading[0])).lower():
                    return after.start() if after else len(body)
        return None

    def html(self):
        """Without scripts it is a pointer to the demo and, where the lesson has it, a picture."""
        there = self.picture and (ROOT / self.chapter / self.picture).exists()
        alt = html.escape(self.title)
        shown = f'<img loading="lazy" src="{self.picture}" alt="{alt}">' if there else ""
        return (
            f'<section class="figure" id="figure-{self.name}" data-figure="{self.name}" aria-label="{alt}">'
            f"<h4>{html.escape(self.title)}</h4>"
            '<div class="still"><p class="about">Here the chapter\'s code answers, compiled to '
            "WebAssembly, when scripts run. "
            f"Without: <code>make {self.chapter} &amp;&amp; ./{self.chapter}/demo</code>.</p>{shown}</div></section>"
        )


def figures_of(chapter):
    text = (ROOT / chapter / "web/figures.js").read_text()
    found = []
    for m in FIGURE.finditer(text):
        value = lambda key, otherwise="": (
            re.search(rf"^  {key}: '((?:[^'\\]|\\.)*)',$", m[2], re.M) or ["", otherwise]
        )[1].replace("\\'", "'")
        if not value("title") or not value("at"):
            fail(
                f"{chapter}/web/figures.js: figure '{m[1]}' needs lines  title: '...',  and  at: '...',"
            )
        found.append(
            Figure(
                chapter,
                m[1],
                value("title"),
                value("at"),
                value("page", "README.md"),
                value("picture"),
            )
        )
    return found


# ---- WebAssembly ----


def compiled(source):
    """The object of a source, made again when the source or something that it includes is newer; None
    when it does not compile.
    """
    made = OBJECTS / f"{source}.o"
    rule = made.with_suffix(".d")
    if made.exists() and rule.exists():
        needs = rule.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        if all(
            os.path.exists(ROOT / n) and os.path.getmtime(ROOT / n) <= made.stat().st_mtime
            for n in needs
        ):
            return made
    made.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [CLANG, *FLAGS, "-MMD", "-MF", rule, "-c", source, "-o", made],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        FAILED[source] = done.stderr
        return None
    return made


def sources(part):
    """A part's own, with its rooms; no programs, and nothing that needs a machine."""
    files = sorted(p for pattern in ("*.c", "*/*.c") for p in (ROOT / part).glob(pattern))
    rooms = ("tests", "exercises", "bugs", "figures", "goldens", "web")
    names = [p.relative_to(ROOT) for p in files if p.parent.name not in rooms]
    main = re.compile(r"^int main\b", re.M)
    return [
        n.as_posix()
        for n in names
        if not HOST.match(n.as_posix())
        and not main.search((ROOT / n).read_text())
        and not n.name.startswith(("demo", "bench"))
    ]


def web_sources(chapter):
    """figures.c and what stands beside it, but for programs."""
    main = re.compile(r"^int main\b", re.M)
    files = sorted((ROOT / chapter / "web").glob("*.c"))
    return [f.relative_to(ROOT).as_posix() for f in files if not main.search(f.read_text())]


def program(chapter, pool):
    """chapter's web/figures.c and what it reaches, as bytes."""
    parts = ["common", *(c for c in chapters() if c <= chapter)]
    everything = [s for p in parts for s in sources(p)] + [f"{WASM.relative_to(ROOT)}/libc.c"]
    objects = [o for o in pool.map(compiled, everything + web_sources(chapter)) if o]
    own = [s for s in web_sources(chapter) if s in FAILED]
    if own:
        fail(f"{own[0]} does not compile for WebAssembly:\n{FAILED[own[0]]}")
    made = OBJECTS / chapter / "figures.wasm"
    done = subprocess.run(
        [CLANG, *objects, *LINK, "-o", made], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        causes = "".join(f"\n{source} does not compile:\n{why}" for source, why in FAILED.items())
        fail(f"{chapter}/web does not link:\n{done.stderr}{causes}")
    return made.read_bytes()


def script(name, data):
    """bytes -> a script that hands them to host.js."""
    return (
        f'book.bytes("{name}", "{base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()}");\n'
    )


def build(out):
    """Compiles all chapters' figures. Returns {page's path: [Figure]}; Figure.loads are its scripts."""
    found = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for chapter in chapters():
            if not (ROOT / chapter / "web/figures.c").exists():
                continue
            folder = out / chapter / "web"
            folder.mkdir(parents=True)
            (folder / "program.js").write_text(script("program", program(chapter, pool)))
            shutil.copy(ROOT / chapter / "web/figures.js", folder)
            model = ROOT / chapter / "web/nano.bin"
            if model.exists():
                (folder / "model.js").write_text(script("model", model.read_bytes()))
            for figure in figures_of(chapter):
                found.setdefault(f"{chapter}/{figure.page}", []).append(figure)
    return found
