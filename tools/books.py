#!/usr/bin/env python3
"""Makes the text for tools/train_109m.sh out of public repositories; it needs git, a network and 2 GB of disk.

    tools/books.py --out DIR [--cache DIR]

    DIR/books-train.jsonl, DIR/books-validation.jsonl    a book a line: title, author, source, text
    DIR/blimp.jsonl                                      67,000 pairs for deepseek eval --tasks
    DIR/last-words.jsonl                                 tools/last_words.py makes these of the books for validation

| source | what is taken | licence |
|---|---|---|
| mlschmitt/classic-books-markdown | AUTHOR/TITLE.md | public domain in the US, as its README says |
| computationalstylistics/100_english_novels | corpus/AUTHOR_TITLE_YEAR.txt | the novels are in the public domain |
| COST-ELTeC/ELTeC-eng | level1/*.xml, without mark-up and title pages | the mark-up is CC BY 4.0, the novels are in the public domain |
| alexwarstadt/blimp | data/*.jsonl (Warstadt et al. 2020) | CC BY 4.0 |

A book goes that shares more than a fifth of its word 8-grams (a sample of them) with one before it. The order is that of a
hash of author and title, and every 50th book is for validation: books are held out, not paragraphs. Which copyright
holds where you live is yours to know: outside of the US some of these authors are not free yet.
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

REPOSITORIES = {
    "classic-books-markdown": "https://github.com/mlschmitt/classic-books-markdown",
    "100_english_novels": "https://github.com/computationalstylistics/100_english_novels",
    "ELTeC-eng": "https://github.com/COST-ELTeC/ELTeC-eng",
    "blimp": "https://github.com/alexwarstadt/blimp",
}
TEI = "{http://www.tei-c.org/ns/1.0}"
SHORTEST = 10_000  # characters of a book
LATEST = 1930  # where a year is known


def fetch(name, cache):
    folder = cache / name
    if not folder.is_dir():
        part = cache / (name + ".part")
        subprocess.run(["rm", "-rf", part], check=True)
        done = subprocess.run(["git", "clone", "--depth", "1", REPOSITORIES[name], part])
        if done.returncode:
            sys.exit(f"books.py: git could not clone {REPOSITORIES[name]}. What was fetched before stays in {cache}")
        part.rename(folder)
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{name}: commit {commit[:12] or 'unknown'}")
    return folder


def tidy(text):
    """One blank line between paragraphs, no spaces at line ends."""
    text = text.replace("\r\n", "\n").replace("\ufeff", "")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip() + "\n"


# ---- a reader for each source: (title, author, text) ----


def markdown(folder):
    for path in sorted(folder.glob("*/*.md")):
        yield path.stem.strip(), path.parent.name, path.read_text(encoding="utf-8", errors="replace")


def plain(folder):
    for path in sorted((folder / "corpus").glob("*.txt")):
        author, title, year = (path.stem.split("_") + ["", ""])[:3]
        if year.isdigit() and int(year) > LATEST:
            continue
        yield title, author, path.read_text(encoding="utf-8", errors="replace")


def paragraphs(element):
    """Texts of all that has words of its own, in order; page breaks and notes are passed over."""
    for child in element:
        name = child.tag.removeprefix(TEI)
        if name in ("head", "p", "l"):
            for note in child.iter(TEI + "note"):
                behind = note.tail
                note.clear()
                note.tail = behind
            text = " ".join("".join(child.itertext()).split())
            if text:
                yield text
        elif name not in ("front", "back", "note", "pb"):
            yield from paragraphs(child)


def tei(folder):
    for path in sorted((folder / "level1").glob("*.xml")):
        try:
            root = xml.parse(path).getroot()
        except xml.ParseError as error:
            print(f"books.py: {path.name} is left out: {error}", file=sys.stderr)
            continue
        years = [d.text or "" for d in root.iterfind(f".//{TEI}bibl[@type='firstEdition']/{TEI}date")]
        if any(y[:4].isdigit() and int(y[:4]) > LATEST for y in years):
            continue
        title = root.findtext(f".//{TEI}titleStmt/{TEI}title", "").split(" : ")[0]
        author = root.findtext(f".//{TEI}titleStmt/{TEI}author", "")
        body = root.find(f".//{TEI}body")
        if body is not None:
            yield " ".join(title.split()), " ".join(author.split()), "\n\n".join(paragraphs(body))


READERS = {"classic-books-markdown": markdown, "100_english_novels": plain, "ELTeC-eng": tei}

# ---- all of it ----


def grams(text):
    """One in 64 of its runs of eight words, by a hash that is the same everywhere."""
    words = re.findall(r"\w+", text.lower())
    found = set()
    for i in range(len(words) - 7):
        digest = hashlib.blake2b(" ".join(words[i : i + 8]).encode(), digest_size=8).digest()
        if digest[0] % 64 == 0:
            found.add(digest)
    return found


def is_copy(own, owners):
    """Does it share more than a fifth of these with one book before it?"""
    shared = {}
    for gram in own:
        for book in owners.get(gram, ()):
            shared[book] = shared.get(book, 0) + 1
    return max(shared.values(), default=0) > len(own) / 5


def collect(cache):
    owners, books, copies = {}, [], 0
    for source, reader in READERS.items():
        for title, author, text in reader(fetch(source, cache)):
            text = tidy(text)
            if len(text) < SHORTEST:
                continue
            own = grams(text)
            if is_copy(own, owners):
                copies += 1
                continue
            for gram in own:
                owners.setdefault(gram, []).append(len(books))
            books.append(dict(title=title, author=author, source=source, text=text))
    if not books:
        sys.exit(f"books.py: there are no books in {cache}; are the repositories as they were?")
    print(f"{len(books)} books; {copies} left out, which share a fifth of their text with another")
    return sorted(books, key=lambda b: hashlib.sha256(f"{b['author']}\n{b['title']}".encode()).digest())


def write(path, rows):
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.rename(path)
    print(f"{path}: {len(rows)} lines, {path.stat().st_size:,} bytes")


def blimp(folder):
    rows = []
    for path in sorted((folder / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            rows.append(dict(task=pair["UID"], field=pair["field"], good=pair["sentence_good"], bad=pair["sentence_bad"]))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, help="where the repositories are cloned to (default: OUT/cache)")
    o = parser.parse_args()
    cache = o.cache or o.out / "cache"
    for folder in (o.out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    books = collect(cache)
    write(o.out / "books-train.jsonl", [b for i, b in enumerate(books) if i % 50 != 49])
    write(o.out / "books-validation.jsonl", [b for i, b in enumerate(books) if i % 50 == 49])
    write(o.out / "blimp.jsonl", blimp(fetch("blimp", cache)))
    maker = pathlib.Path(__file__).resolve().parent / "last_words.py"
    made = subprocess.run([maker, o.out / "books-validation.jsonl"], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        sys.exit(made.returncode)
    (o.out / "last-words.jsonl").write_text(made.stdout, encoding="utf-8")
    print(f"Now: tools/train_109m.sh --out out/109m --held-out {o.out}/books-validation.jsonl --tasks {o.out}/blimp.jsonl \\")
    print(f"    --tasks {o.out}/last-words.jsonl {o.out}/books-train.jsonl")


if __name__ == "__main__":
    main()
