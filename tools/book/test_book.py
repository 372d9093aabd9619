#!/usr/bin/env python3
"""Does the book work? After `make book`, in a headless Chromium: test_book.py [--shots FOLDER] [PAGE...]
or test_book.py --browser firefox [PAGE...]

    pages      load without an error and without a request to another host, and fit screens of 320,
               800 and 1400 pixels, where no picture's text is smaller than 9; without scripts the text
               is there, without WebAssembly or its SIMD a figure says so
    figures    each input of each figure is set to its ends and to something else; what the page says
               is what the chapter's native library says to the same question
    exercises  the right numbers are right, others are not
    search     finds a section, and its link leads there
    links      one that leads nowhere stops the build

--shots writes pictures of all pages in three widths, for people to look at. In Firefox (package firefox-esr)
pages, figures and search are tested, so that nothing is only Chromium's; the rest is no browser's matter.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import figures
import native
from browser import Browser
from build import ROOT, Build, chapters, fail, run_main
from firefox import Firefox
from pages import Book, Page

BOOK = ROOT / "build/book"
NATIVE = ROOT / "build/book-tools"
WIDTHS = (320, 800, 1400)
MOST_BYTES = 1 << 20

# Both sides compute in F32 and sum in another order: WebAssembly has no fused multiply-add, and its
# vectors are of four. A thousandth of a number (or of a hundredth of the answer's largest, where
# numbers cancel) is far above that, and far below what a mistake makes.
TOLERANCE, CANCELLED = 1e-3, 1e-2
# Of figures that go on from call to call, so that rounding grows, only the first calls are compared.
# Of a training step's 512 choices of experts some may fall the other way.
CALLS = {"balance": 3, "write": 12}
LOOSE = {"balance": 2e-2}


class Results:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, ok, what):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        if not ok:
            print(f"FAILED: {what}", flush=True)
        return ok


# ---- what the native library says ----


class Native:
    """A chapter's figures as a native program; questions go through its stdin, in the page's order."""

    def __init__(self, chapter):
        model = ROOT / chapter / "web/nano.bin"
        self.process = subprocess.Popen(
            [NATIVE / chapter, *([model] if model.exists() else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )

    def ask(self, figure, inputs):
        clean = {
            k: " ".join(str(v).splitlines()) if isinstance(v, str) else v for k, v in inputs.items()
        }
        self.process.stdin.write(
            "\t".join([figure, *(f"{k}={v}" for k, v in clean.items())]) + "\n"
        )
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else None


def link_native():
    build = Build("CUDA=0")
    last = chapters()[-1]
    ok, text = build.make(build.blas, *build.libraries(last), quiet=True)
    if not ok:
        fail(text)
    own = [c for c in chapters() if (ROOT / c / "web/figures.c").exists()]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda c: native.link(
                    build, NATIVE / c, c, ["tools/book/native.c", *figures.web_sources(c)]
                ),
                own,
            )
        )


def numbers(value):
    return [value] if isinstance(value, (int, float, bool)) or value is None else value


def difference(page, library, loose=None):
    """The first name whose values differ, and how; None: all are alike. Times may differ. loose: a part
    of the largest number, for all of them.
    """
    if library is None:
        return "the native program ended"
    if page.keys() != library.keys():
        return f"{sorted(page)} is not {sorted(library)}"
    for name in page:
        a, b = page[name], library[name]
        if isinstance(a, str):
            if a != b:
                return f"{name}: {a!r} is not {b!r}"
        elif not name.endswith("_ms"):
            a, b = numbers(a), numbers(b)
            largest = max([abs(x) for x in b if x is not None], default=0)
            if len(a) != len(b):
                return f"{name}: {len(a)} numbers are not {len(b)}"
            for i, (x, y) in enumerate(zip(a, b)):
                if x is None or y is None:
                    ok = x is y
                else:
                    allowed = (
                        loose * largest if loose else TOLERANCE * max(abs(y), CANCELLED * largest)
                    )
                    ok = abs(x - y) <= allowed + 1e-30
                if not ok:
                    return f"{name}[{i}]: {x} is not {y}"
    return None


# ---- figures ----

SETTINGS = """(() => {
  const out = [];
  for (const e of document.querySelectorAll('#figure-%s .controls :is(input, select)')) {
    const key = e.id.slice('%s-'.length);
    if (e.type === 'range') out.push([key, e.min], [key, e.max], [key, e.defaultValue || e.value]);
    else if (e.tagName === 'SELECT') for (const o of e.options) out.push([key, o.value]);
    else out.push([key, ''], [key, '1e99 nan <b>"\\u00e4\\u00f6 \\u4e16" -3 0.25, 7'], [key, e.value]);
  }
  return out;
})()"""


def drive(page, name, runs):
    """Sets every input as a reader would; a figure that is started is started at the end."""
    section = f"document.getElementById('figure-{name}')"
    page.run(f"{section}.scrollIntoView()")
    if not runs and not page.until(f"{section}.dataset.answers"):
        return False
    for key, value in page.run(SETTINGS % (name, name)):
        before = page.run(f"Number({section}.dataset.answers || 0)")
        page.run(f"{section}.set({json.dumps(key)}, {json.dumps(value)})")
        if not runs and not page.until(f"{section}.dataset.answers > {before}"):
            return False
    if runs:
        page.run(f"{section}.querySelector('.go').click()")
        return page.until(f"{section}.dataset.runs", 60)
    return True


def check_figures(results, page, path, library):
    for figure in page.run(
        "[...document.querySelectorAll('[data-figure]')].map(f => f.dataset.figure)"
    ):
        section = f"document.getElementById('figure-{figure}')"
        runs = page.run(f"!!{section}.querySelector('.go')")
        answered = drive(page, figure, runs)
        said = page.run(f"{section}.querySelector('.say').textContent")
        results.check(answered and "stopped" not in said, f"{path}: {figure} answers ({said})")
        text = (ROOT / path.split("/")[0] / "web/figures.js").read_text()
        asks = "attends" if figure == "selected" and "ask: 'attends'" in text else figure
        told = page.run(f"{section}.told")
        wrong = None
        for inputs, answer in told[: CALLS.get(figure, len(told))]:
            wrong = difference(answer, library.ask(asks, inputs), LOOSE.get(figure))
            if wrong:
                wrong = f"{wrong}, for {str(inputs)[:200]}"
                break
        results.check(
            told and not wrong, f"{path}: {figure} says what the native library says: {wrong}"
        )


# ---- pages ----


def quiet(results, page, what):
    outside = [
        r
        for r in page.requests
        if not r.startswith(("file:///", "data:", "blob:", "http://127.0.0.1:"))
    ]
    results.check(not page.errors, f"{what}: no errors: {page.errors[:2]}")
    results.check(not outside, f"{what}: asks nobody else: {outside[:2]}")


def check_page(results, browser, path, library, shots):
    url = (BOOK / path).as_uri()
    page = browser.open(url)
    check_figures(results, page, path, library)
    quiet(results, page, path)
    loaded = {r for r in page.requests if r.startswith("file:") and not r.endswith("model.js")}
    size = sum(
        pathlib.Path(r.removeprefix("file://").split("#")[0].split("?")[0]).stat().st_size
        for r in loaded
    )
    results.check(size < MOST_BYTES, f"{path}: {size} bytes without the model")
    right = (
        "const answers = JSON.parse(atob(f.dataset.answers)), fields = [...f.querySelectorAll('input')];"
        "fields.forEach((e, i) => { e.value = answers[i][1]; }); f.requestSubmit();"
    )
    for i in range(page.run("document.querySelectorAll('.predict').length")):
        form, verdict = (
            f"(() => {{ const f = document.querySelectorAll('.predict')[{i}]; ",
            "return f.querySelector('.verdict').textContent; })()",
        )
        results.check(
            page.run(form + right + verdict) == "All right.",
            f"{path}: prediction {i} knows its numbers",
        )
        wrong = "for (const e of f.querySelectorAll('input')) e.value = '12345.678'; f.requestSubmit(); "
        results.check(
            page.run(form + wrong + verdict).startswith("0 of"),
            f"{path}: prediction {i} knows others",
        )
    for width in WIDTHS:
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        page.run("new Promise(done => setTimeout(done, 120))")
        wide = page.run("document.documentElement.scrollWidth")
        results.check(wide <= width, f"{path}: {wide} pixels on a screen of {width}")
        small = [name for name, shown in page.run(PICTURES) if text_height(path, name, shown) < 9]
        results.check(not small, f"{path}: text of {small} is too small on a screen of {width}")
        if shots:
            page.picture(shots / f"{path.replace('/', '_')}_{width}.png")
    browser.close(page)


PICTURES = "[...document.querySelectorAll('figure img')].map(i => [i.getAttribute('src'), i.clientWidth])"


def text_height(path, name, shown):
    """Of the smallest text in a picture that is shown so many pixels wide."""
    svg = ((BOOK / path).parent / name).read_text()
    drawn = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
    return min(map(float, re.findall(r'font-size="([\d.]+)"', svg))) * shown / drawn


ABSENT = {
    "WebAssembly": "delete window.WebAssembly;",
    "SIMD": "WebAssembly.validate = () => false;",
}


def check_without(results, browser, path):
    url = (BOOK / path).as_uri()
    shown = "getComputedStyle(document.querySelector('.figure .still')).display !== 'none'"
    plain = browser.open(url, scripts=False)
    results.check(
        plain.run(shown) and plain.run("document.querySelector('main').textContent.length") > 5000,
        f"{path} without scripts",
    )
    browser.close(plain)
    for what, script in ABSENT.items():
        page = browser.open(url, before=script)
        says = page.run("(document.querySelector('.figure .absent') || {}).textContent || ''")
        results.check(what in says and page.run(shown), f"{path} without {what}: '{says}'")
        quiet(results, page, f"{path} without {what}")
        browser.close(page)


# What ends a program, and the words that the reader gets; the next question is answered all the same.
ENDS = {
    "stopped": "(() => { const a = book.call('balance', {step: 0, text: 'ab '.repeat(900), gamma: 0.01});"
    "setTimeout(book.stop, 30); return a; })()",
    "the text to learn from is too short": "book.call('balance', {step: 0, text: 'ab', gamma: 0.01})",
    "not a function": "book.call('nothing', {})",
}


def check_ends(results, browser):
    page = browser.open((BOOK / "05_moe/index.html").as_uri())
    for words, call in ENDS.items():
        said = page.run(f"{call}.then(() => 'an answer', e => e.message)")
        results.check(words in said, f"a program that ends says '{words}': '{said}'")
        again = page.run("book.call('router', {top_k: 2}).then(a => a.counts.length)")
        results.check(again == 8, f"after '{words}' the next question is answered")
    browser.close(page)


def check_search(results, browser):
    page = browser.open((BOOK / "index.html").as_uri())
    page.run("document.querySelector('.search input').focus()")
    page.run(
        "(() => { const f = document.querySelector('.search input'); f.value = 'online softmax';"
        "f.dispatchEvent(new Event('input')); })()"
    )
    found = page.until("document.querySelectorAll('.search li a').length")
    results.check(found, "search finds 'online softmax'")
    link = page.run("(document.querySelector('.search li a') || {}).href || ''")
    page.run("document.querySelector('.search li a')?.click()")
    page.browser.pump(0.5)
    results.check(
        "#" in link
        and page.until(
            "location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))"
        ),
        f"{link} leads there",
    )
    quiet(results, page, "search")
    browser.close(page)


def check_served(results, browser):
    """The same over HTTP, as `python3 -m http.server` does it."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(BOOK))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.open(f"http://127.0.0.1:{server.server_port}/01_self_attention/")
    page.run("document.querySelector('.figure').scrollIntoView()")
    results.check(
        page.until("document.querySelector('.figure').dataset.answers"),
        "a figure answers on a page that was served",
    )
    quiet(results, page, "served")
    browser.close(page)
    server.shutdown()


def check_links(results):
    book = Book(NATIVE, [], {}, {})
    for link, dead in (
        ("mla.h", False),
        ("nowhere.h", True),
        ("../../outside.md", True),
        ("../02_causal/README.md", False),
    ):
        before = len(book.mistakes)
        book.target(Page("04_mla/README.md"), link)
        results.check((len(book.mistakes) > before) == dead, f"link {link}")


def check_in_firefox(results, pages, library_of):
    with Firefox() as browser:
        for path in pages:
            page = browser.open((BOOK / path).as_uri())
            check_figures(results, page, path, library_of(path))
            results.check(not page.errors, f"{path}: no errors: {page.errors[:2]}")
            browser.close(page)
            page = browser.open((BOOK / path).as_uri(), width=500)
            wide, width = page.run("[document.documentElement.scrollWidth, window.innerWidth]")
            results.check(wide <= width, f"{path}: {wide} pixels on a screen of {width}")
            browser.close(page)
        check_search(results, browser)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--browser", choices=("chromium", "firefox"), default="chromium")
    parser.add_argument("pages", nargs="*")
    options = parser.parse_args(arguments)
    if not (BOOK / "index.html").exists():
        fail("there is no book yet: make book")
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    results = Results()
    link_native()
    pages = options.pages or sorted(
        {
            p.relative_to(BOOK).as_posix()
            for p in BOOK.glob("**/*.html")
            if 'class="lesson"' in p.read_text()
        }
    )
    libraries = {}

    def library_of(path):
        chapter = path.split("/")[0]
        if (NATIVE / chapter).exists() and chapter not in libraries:
            libraries[chapter] = Native(chapter)
        return libraries.get(chapter)

    if options.browser == "firefox":
        if not shutil.which("firefox-esr"):
            fail("there is no firefox-esr: tools/setup.sh book-test")
        check_in_firefox(results, pages, library_of)
    else:
        with Browser() as browser:
            for path in pages:
                check_page(results, browser, path, library_of(path), options.shots)
            check_without(results, browser, "01_self_attention/index.html")
            check_ends(results, browser)
            check_search(results, browser)
            check_served(results, browser)
        check_links(results)
    for library in libraries.values():
        library.process.stdin.close()
        library.process.wait()
    print(f"{results.passed} passed, {results.failed} failed, 0 skipped")
    return 1 if results.failed else 0


if __name__ == "__main__":
    run_main(main)
