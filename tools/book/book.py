#!/usr/bin/env python3
"""The lessons as a site of static files: book.py [--draft] [OUT]     (`make book`; OUT is build/book)

Every .md file of the repository that the lessons lead to becomes a page, at the same place:
02_causal/README.md is OUT/02_causal/index.html, so that relative links stay what they are. A source
file that a page names becomes a page with numbered lines, so that a link can lead to a line.
pandoc reads Markdown; everything else is here and in the modules beside:

    pages.py       a lesson's HTML: links, headings, quotes, charts with their numbers
    sources.py     source files as pages, and the colours of code
    exercises.py   tasks, hints, and predictions that are graded in the page
    figures.py     the chapters' NN_name/web/: which figure stands where; clang makes their WebAssembly
    assets/        what a browser reads: template, style sheet, scripts

The build fails when a relative link leads nowhere; with --draft, for those who are writing a lesson,
it only says so. No page asks another host for anything.
"""

import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import exercises
import figures
from build import ROOT, chapters, fail, run_main
from pages import Book, Mistake

ASSETS = pathlib.Path(__file__).resolve().parent / "assets"
NO_ROOM = ("tests", "exercises", "bugs", "figures", "goldens")
SCRIPTS = ["book.js", "draw.js", "charts.js", "host.js", "widgets.js"]


def lessons():
    """The pages in the order of reading, as paths from the root: a part's lesson, then what else it
    has in Markdown. What links reach beside these follows.
    """
    found = ["README.md"]
    for part in [*chapters(), "common"]:
        pages = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / part).glob("**/*.md"))
        first = f"{part}/README.md"
        found += [first, *(p for p in pages if p != first and p.split("/")[1] not in NO_ROOM)]
    return found


def write_assets(out, book):
    folder = out / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ASSETS / "book.css", folder)
    for name in SCRIPTS:
        shutil.copy(ASSETS / name, folder)
    # Scripts and not JSON: a page that was opened from the disk may not fetch() its neighbours.
    (folder / "search.js").write_text(
        f"window.bookSearch({json.dumps(book.sections, ensure_ascii=False)});\n"
    )


def report(out, book):
    """Each page's bytes with all that it loads but for the model, and its figures."""
    shared = sum((out / "assets" / name).stat().st_size for name in ["book.css", *SCRIPTS])
    print(f"  {'page':34}{'KB':>6}  figures that answer")
    for page in book.pages.values():
        if page.lesson:
            own = [out / page.url, *(out / p for p in page.loads)]
            size = shared + sum(p.stat().st_size for p in own)
            print(f"  {page.url:34}{size / 1024:6.0f}  {', '.join(f.name for f in page.figures)}")


def main(arguments):
    if not shutil.which("pandoc"):
        fail("pandoc is missing; on Debian: tools/setup.sh book")
    draft = "--draft" in arguments
    rest = [a for a in arguments if a != "--draft"]
    out = pathlib.Path(rest[0]).resolve() if rest else ROOT / "build/book"
    shutil.rmtree(out, ignore_errors=True)
    write = figures.build(out)
    book = Book(out, lessons(), figures=write, exercises=exercises.by_chapter())
    try:
        book.write(ASSETS / "template.html", draft)
    except Mistake as mistake:
        fail(f"\n{mistake}")
    write_assets(out, book)
    report(out, book)
    print(f"  {len(book.pages)} pages: {os.path.relpath(out)}/index.html")


if __name__ == "__main__":
    run_main(main)
