"""Markdown to pages.

A Book is a queue of paths: first the lessons, then what their links lead to. pandoc makes HTML of a
lesson; the rest is done on that HTML, by the few shapes pandoc writes:

    links          checked, and led to pages: README.md -> index.html, x.c -> x.c.html
    `mla_cpu.c`    a file that exists is a link to it
    headings       anchors that can be copied, and the list of contents
    quotes         the comment lesson-sync left says which file's lines they are: a caption with a link
    charts         beneath each, its numbers: the CSV file that it was drawn from; on a small screen its
                   frame scrolls, so that its text stays readable
    figures        those of NN_name/web/, at the picture or heading that they ask for

Invariant: every href and src is a path inside the book, an anchor that exists, or another site's
address in a link that a reader may follow.
"""

import csv
import dataclasses
import html
import os
import posixpath
import re
import shutil
import subprocess

from build import ROOT
from sources import coloured, numbered

NAMES = ["README.md", "index.html"]
OUTSIDE = re.compile(r"^(https?|mailto):")
IMAGES = (".svg", ".png")


class Mistake(Exception):
    pass


@dataclasses.dataclass
class Page:
    path: str  # in the repository, of a file or of a folder
    lesson: bool = False
    title: str = ""
    body: str = ""
    contents: list = dataclasses.field(default_factory=list)  # (level, id, text)
    ids: set = dataclasses.field(default_factory=set)
    links: list = dataclasses.field(default_factory=list)  # (path, anchor, as written)
    figures: list = dataclasses.field(default_factory=list)
    loads: list = dataclasses.field(default_factory=list)  # files of the book, pictures and scripts

    @property
    def url(self):
        if self.path in (".", "README.md"):
            return "index.html"
        if (ROOT / self.path).is_dir():
            return (
                f"{self.path}/index.html"
                if not (ROOT / self.path / "README.md").exists()
                else f"{self.path}/files.html"
            )
        if self.path.endswith("README.md"):
            return self.path[: -len("README.md")] + "index.html"
        return (
            self.path[: -len(".md")] + ".html" if self.path.endswith(".md") else self.path + ".html"
        )


def plain(fragment):
    """HTML without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", fragment)).strip()


def drawn_from(picture):
    """The CSV file of a chart (tools/figures.sh), None of another picture."""
    script = ROOT / picture.replace(".svg", ".gp")
    named = re.search(r"^# data: (.*)$", script.read_text(), re.M) if script.is_file() else None
    table = f"{posixpath.dirname(picture)}/{named[1]}" if named else picture.replace(".svg", ".csv")
    return table if table.endswith(".csv") and (ROOT / table).exists() else None


def relative(url, page):
    return posixpath.relpath(url, posixpath.dirname(page.url) or ".")


class Book:
    def __init__(self, out, lessons, figures, exercises):
        self.out, self.figures, self.exercises = out, figures, exercises
        self.pages = {path: Page(path, lesson=True) for path in lessons}
        self.sections, self.mistakes = [], []

    # ---- links ----

    def page_of(self, path):
        """The page for a file or folder of the repository; it joins the queue when it is new."""
        if path not in self.pages:
            self.pages[path] = Page(path, lesson=path.endswith(".md"))
        return self.pages[path]

    def target(self, page, link):
        """Where a relative link leads: the same link for the book."""
        path, _, anchor = link.partition("#")
        inside = (
            posixpath.normpath(posixpath.join(posixpath.dirname(page.path), html.unescape(path)))
            if path
            else page.path
        )
        file = ROOT / inside
        if inside.startswith("..") or not file.exists():
            self.mistakes.append(f"{page.path}: '{link}' leads nowhere")
            return "#"
        if inside.endswith(IMAGES):
            self.copy(page, inside)
            return relative(inside, page)
        if file.is_dir() and (file / "README.md").exists():
            inside = posixpath.normpath(f"{inside}/README.md")
        there = self.page_of(inside)
        page.links.append((there.path, anchor, link))
        return ("" if there is page else relative(there.url, page)) + (
            f"#{anchor}" if anchor else ""
        )

    def copy(self, page, path):
        to = self.out / path
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, to)
        if path not in page.loads:
            page.loads.append(path)

    def relink(self, page, body):
        def one(m):
            link = m[2]
            if OUTSIDE.match(link):
                if m[1] == "src":
                    self.mistakes.append(f"{page.path}: '{link}' would be asked of another host")
                return m[0]
            return f'{m[1]}="{self.target(page, link)}"'

        return re.sub(r'\b(href|src)="([^"]*)"', one, body)

    def link_file_names(self, page, body):
        """<code>mla_cpu.c</code> becomes a link where there is such a file, here or from the root."""

        def one(m):
            for base in (posixpath.dirname(page.path), ""):
                path = posixpath.normpath(posixpath.join(base, m[1]))
                if not path.startswith("..") and (ROOT / path).is_file() and path != page.path:
                    return f'<a href="{posixpath.relpath(path, posixpath.dirname(page.path) or ".")}">{m[0]}</a>'
            return m[0]

        parts = re.split(r"(<a\b.*?</a>|<pre\b.*?</pre>)", body, flags=re.S)
        return "".join(
            p if i % 2 else re.sub(r"<code>([\w./-]+\.(?:c|h|cu|cuh|py|sh|md))</code>", one, p)
            for i, p in enumerate(parts)
        )

    # ---- what a lesson is made of ----

    def line_of(self, path, name):
        marker = re.compile(rf"\s*(?://|/\*|#)\s*\[{re.escape(name)}\]")
        lines = (ROOT / path).read_text().splitlines()
        return next((i + 2 for i, line in enumerate(lines) if marker.match(line)), 1)

    def code(self, page, body):
        """Colours, and above what lesson-sync quotes the file and line it comes from."""

        def block(m):
            return f"<pre><code>{coloured(html.unescape(m[2]), m[1] or '')}</code></pre>"

        def quote(m):
            path, name = m[1], m[2]
            line = self.line_of(path, name)
            to = posixpath.relpath(path, posixpath.dirname(page.path) or ".")
            return f'<p class="from"><a href="{to}#L{line}">{path}:{line}</a></p>\n'

        body = re.sub(r"<!-- code: (\S+?)#(\S+) -->\s*", quote, body)
        body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
        return re.sub(r'<pre(?: class="(\w+)")?><code>(.*?)</code></pre>', block, body, flags=re.S)

    def headings(self, page, body):
        def one(m):
            level, anchor, text = int(m[1]), m[2], m[3]
            if level == 1:
                page.title = plain(text)
            elif level <= 3:
                page.contents.append((level, anchor, plain(text)))
            link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
            return f'<h{level} id="{anchor}">{text} {link}</h{level}>'

        return re.sub(r'<h([1-6]) id="([^"]*)">(.*?)</h\1>', one, body, flags=re.S)

    def numbers(self, path):
        """A chart's CSV as a table that opens on request, with the head that says how it was made."""
        rows = [r for r in csv.reader((ROOT / path).read_text().splitlines())]
        head = [", ".join(r)[2:] for r in rows if r and r[0].startswith("#")]
        table = [r for r in rows if r and not r[0].startswith("#")]
        lines = ["<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in table[0]) + "</tr>"]
        lines += [
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in r) + "</tr>" for r in table[1:]
        ]
        return (
            f'<details class="numbers"><summary>the numbers of this chart</summary>'
            f'<p class="made">{"<br>".join(html.escape(h) for h in head)}</p>'
            f'<div class="wide"><table>{"".join(lines)}</table></div></details>'
        )

    def charts(self, page, body):
        def one(m):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), m[2]))
            figure = f'<figure>{m[1]}<figcaption>{m[3]}</figcaption></figure>'
            table = drawn_from(path)
            return figure + (self.numbers(table) if table else "")

        return re.sub(r'<p>(<img\s+src="([^"]*)"\s+alt="([^"]*)"\s*/?>)</p>', one, body)

    def place_figures(self, page, body):
        """A figure goes behind the picture that it answers for, else to the heading that it names,
        else before the exercises; the last is said, for it means that the lesson has changed.
        """
        for figure in self.figures.get(page.path, []):
            at = figure.place(body)
            if at is None:
                print(f"  book: {page.path} has no place '{figure.at}' for '{figure.name}'")
                at = (re.search(r'<h2 id="exercises"', body) or re.search(r"\Z", body)).start()
            body = body[:at] + figure.html() + body[at:]
            page.figures.append(figure)
        folder = f"{posixpath.dirname(page.path)}/web"
        names = ["program.js", "model.js", "figures.js"] if page.figures else []
        page.loads += [f"{folder}/{n}" for n in names if (self.out / folder / n).exists()]
        return body

    # ---- pages ----

    def lesson(self, page):
        text = (ROOT / page.path).read_text()
        done = subprocess.run(
            ["pandoc", "-f", "gfm+tex_math_dollars", "-t", "html5", "--mathml", "--no-highlight", "--wrap=preserve"],
            input=text, capture_output=True, text=True, check=True,
        )  # fmt: skip
        body = self.headings(page, done.stdout)
        body = self.place_figures(page, self.charts(page, body))
        body = self.place_exercises(page, self.list_figures(page, body))
        body = self.relink(page, self.link_file_names(page, self.code(page, body)))
        page.body = re.sub(
            r"<table>.*?</table>", r'<div class="wide">\g<0></div>', body, flags=re.S
        )
        page.ids = set(re.findall(r'\bid="([^"]*)"', page.body))
        self.remember(page)

    def list_figures(self, page, body):
        """On the cover, below the chapters: what answers in them."""
        if page.path != "README.md" or not self.figures:
            return body
        items = "".join(
            f'<li><a href="{path}#figure-{f.name}">{html.escape(f.title)}</a> ({f.chapter[:2]})</li>'
            for path, figures in sorted(self.figures.items())
            for f in figures
        )
        words = "In these figures the chapters' own code answers, compiled to WebAssembly:"
        second = [*re.finditer("<h2 ", body), None, None][1]
        at = second.start() if second else len(body)
        return f'{body[:at]}<p>{words}</p><ul class="answers">{items}</ul>{body[at:]}'

    def place_exercises(self, page, body):
        cards = (
            self.exercises.get(posixpath.dirname(page.path))
            if page.path.endswith("README.md")
            else None
        )
        heading = re.search(r'<h2 id="exercises".*?</h2>', body)
        if not cards or not heading:
            return body
        after = re.compile(r"<h2 ").search(body, heading.end())
        at = after.start() if after else len(body)
        return body[:at] + cards + body[at:]

    def remember(self, page):
        """For the search: each section's heading and words."""
        parts = re.split(r'<h[123] id="([^"]*)">(.*?)</h[123]>', page.body, flags=re.S)
        for i in range(1, len(parts), 3):
            words = " ".join(plain(re.sub(r"<pre.*?</pre>", " ", parts[i + 2], flags=re.S)).split())
            self.sections.append(
                [page.url, parts[i], page.title, plain(parts[i + 1]).removesuffix(" #"), words]
            )

    def source(self, page):
        file = ROOT / page.path
        page.title = page.path
        if file.is_dir():
            entries = sorted(p for p in file.iterdir() if p.suffix and not p.name.startswith("."))
            items = [
                f'<li><a href="{os.path.relpath(p, file)}">{p.name}</a></li>'
                for p in entries
                if p.is_file()
            ]
            fake = Page(f"{page.path}/x")
            body = self.relink(fake, "".join(items))
            page.links = fake.links
            page.body = f"<h1>{page.path}/</h1><ul>{body}</ul>"
            return
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            text = f"({file.stat().st_size:,} bytes, not text)"
        page.body = f"<h1>{page.path}</h1>{numbered(text, file.suffix)}"
        page.ids = {f"L{i}" for i in range(1, text.count("\n") + 2)}

    def write(self, template, draft):
        text, order = template.read_text(), [p for p in self.pages.values() if p.lesson]
        done = 0
        while done < len(self.pages):  # the queue grows while it is worked off
            page = list(self.pages.values())[done]
            self.lesson(page) if page.path.endswith(".md") else self.source(page)
            done += 1
        for page in self.pages.values():
            for path, anchor, link in page.links:
                if anchor and anchor not in self.pages[path].ids:
                    self.mistakes.append(f"{page.path}: '{link}': there is no such heading or line")
        if self.mistakes and not draft:
            raise Mistake("\n".join(self.mistakes))
        for mistake in self.mistakes:
            print(f"  book: {mistake}")
        for page in self.pages.values():
            to = self.out / page.url
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(self.filled(text, page, order))

    def filled(self, text, page, order):
        root = posixpath.relpath(".", posixpath.dirname(page.url) or ".")
        chapters = "".join(
            f'<li><a href="{relative(p.url, page)}"{" aria-current=page" if p is page else ""}>'
            f"{html.escape(p.title)}</a></li>"
            for p in order
            if p.path.endswith("README.md")
        )
        contents = "".join(
            f'<li class="l{n}"><a href="#{i}">{html.escape(t)}</a></li>'
            for n, i, t in page.contents
        )
        at = order.index(page) if page in order else -1
        before = order[at - 1] if at > 0 else None
        after = order[at + 1] if 0 <= at < len(order) - 1 else None

        def turn(to, how, words):
            text = words.format(html.escape(to.title)) if to else ""
            return (
                f'<a rel="{how}" href="{relative(to.url, page)}">{text}</a>'
                if to
                else "<span></span>"
            )

        scripts = [f"{root}/assets/{n}" for n in page_scripts(page)] + [
            relative(p, page) for p in page.loads if p.endswith(".js")
        ]
        values = {
            "title": html.escape(page.title), "root": root, "chapters": chapters, "body": page.body,
            "contents": f'<nav class="here" aria-label="On this page"><ul>{contents}</ul></nav>' if contents else "",
            "before": turn(before, "prev", "← {}"), "after": turn(after, "next", "{} →"),
            "scripts": "".join(f'<script defer src="{s}"></script>\n' for s in scripts),
            "kind": "lesson" if page.lesson else "file",
        }  # fmt: skip
        return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], text)


def page_scripts(page):
    """The shared ones: a page loads what it has use for."""
    drawn = ["draw.js"] if page.figures or '<details class="numbers"' in page.body else []
    return [
        "book.js",
        *drawn,
        *(["charts.js"] if drawn else []),
        *(["host.js", "widgets.js"] if page.figures else []),
    ]
