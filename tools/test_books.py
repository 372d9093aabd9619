#!/usr/bin/env python3
"""Tests of books.py and last_words.py, on sources small enough to be read: test_books.py"""

import json
import pathlib
import subprocess
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parent
WORDS = "lamp harbour evening letter captain window garden river winter shadow candle market".split()
TEI = """<?xml version="1.0"?><TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt>
<title>Fish : ELTeC edition</title><author>One, A. (1810)</author></titleStmt><sourceDesc><bibl type="firstEdition">
<date>{year}</date></bibl></sourceDesc></fileDesc></teiHeader><text><front><p>title page</p></front><body><div>
<head>I</head><p>He came<note>a <hi>note</hi></note> <pb n="3"/>back with <hi>one</hi> fish.</p>{rest}</div></body></text></TEI>"""


def story(seed, sentences=300):
    """Sentences of seven words, the last of which stood in others before; no two stories share eight words."""
    return "\n\n".join(
        f"The {WORDS[i % 11]} of {seed}x{i} had no {WORDS[(i * 5 + seed) % 12]}." for i in range(sentences)
    )


def make_sources(cache):
    def put(path, text):
        path = cache / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    for i in range(60):
        put(f"classic-books-markdown/Author {i}/Title {i}.md", "\n\n\n# I\n\n" + story(i))
    put("classic-books-markdown/README.md", "no book")
    put("classic-books-markdown/Author 1/Short.md", "too short")
    put("100_english_novels/corpus/Zed_Copy_1850.txt", "A NOVEL\n\n" + story(7))
    put("100_english_novels/corpus/Zed_Late_1931.txt", story(70))
    put("100_english_novels/corpus/Zed_Own_1930.txt", story(71))
    put("ELTeC-eng/level1/a.xml", TEI.format(year=1844, rest="".join(f"<p>{p}</p>" for p in story(80).split("\n\n"))))
    put("ELTeC-eng/level1/b.xml", TEI.format(year=1944, rest="".join(f"<p>{p}</p>" for p in story(81).split("\n\n"))))
    put("ELTeC-eng/level1/c.xml", "<TEI")
    pair = dict(sentence_good="A cat sleeps.", sentence_bad="A cat sleep.", field="morphology", UID="agreement", pairID="0")
    put("blimp/data/agreement.jsonl", json.dumps(pair) + "\n")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main():
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        make_sources(out / "cache")
        done = subprocess.run([TOOLS / "books.py", "--out", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "62 books; 1 left out" in done.stdout and "c.xml is left out" in done.stderr, done.stdout + done.stderr
        train, held_out = lines(out / "books-train.jsonl"), lines(out / "books-validation.jsonl")
        assert len(train) == 61 and len(held_out) == 1
        books = {b["title"]: b for b in train + held_out}
        assert len(books) == 62 and "Own" in books and "Copy" not in books and "Late" not in books
        assert books["Fish"]["author"] == "One, A. (1810)"
        assert books["Fish"]["text"].startswith("I\n\nHe came back with one fish.\n\nThe lamp")
        assert books["Title 3"]["text"].startswith("# I\n\nThe lamp")
        assert lines(out / "blimp.jsonl") == [dict(task="agreement", field="morphology", good="A cat sleeps.", bad="A cat sleep.")]
        items = lines(out / "last-words.jsonl")
        assert items and all(i["task"] == "last-words" and i["title"] == held_out[0]["title"] for i in items)
        for item in items:
            *before, last = item["text"].split()
            sentences = item["text"].split(". ")
            assert last in before and last not in sentences[-1].split()[:-1] and len(before) >= 60, item
            assert "\n".join(sentences[-1:]) + "." in held_out[0]["text"], item
        again = subprocess.run([TOOLS / "books.py", "--out", out], capture_output=True, text=True)
        assert again.returncode == 0 and lines(out / "books-train.jsonl") == train
        bad = out / "bad.jsonl"
        bad.write_text('{"text": "a"}\n{"title": 3}\n')
        done = subprocess.run([TOOLS / "last_words.py", bad], capture_output=True, text=True)
        assert done.returncode == 1 and "bad.jsonl:2: " in done.stderr, done.stderr
    print("books.py, last_words.py: as they should be")


if __name__ == "__main__":
    main()
