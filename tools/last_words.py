#!/usr/bin/env python3
"""Makes tasks out of books, after LAMBADA (Paperno et al. 2016): texts whose last word a reader knows from what
stands far before it. For `deepseek eval --tasks`, from books that the model has not seen.

    tools/last_words.py HELD_OUT.jsonl... > last_words.jsonl      [--items 2000] [--words 60] [--seed 1]

A text is whole sentences, at least --words words before its last sentence begins, and ends where that sentence does,
without its full stop. Its last word has four letters or more, none of them a capital, is no stop word, and stands
before the last sentence, too, but not in it. (LAMBADA's own texts were chosen by people: those that could be
guessed from all of the text, and not from the last sentence.) The same seed gives the same items; a book gives as
many as its share of all that there could be. Each is a line {"text": ..., "task": "last-words", "title": ...}.
"""

import argparse
import json
import random
import re
import sys

STOP = set(
    """about above after again against also although always among another because been before being below
    between both could does doing done down during each either else even ever every from further give given goes going
    have having hence here hers herself himself into itself just like made make many mine more most much must myself
    never none only other ours over quite said same says shall should since some such than that their theirs them
    themselves then there these they this those though thou through thus till unto upon very want well were what when
    where which while whom whose will with within without would your yours yourself""".split()
)
SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"'\u2019\u201d)]*\s*")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def paragraphs(text):
    for part in re.split(r"\n\s*\n", text):
        part = " ".join(part.split())
        if part and not part.startswith("#"):
            yield part


def items(text, words):
    """All texts that a book has, in its order; none shares a sentence with the one before it."""
    sentences, counts, total = [], [], 0
    for paragraph in paragraphs(text):
        for sentence in SENTENCE.findall(paragraph):
            found = WORD.findall(sentence)
            sentence = sentence.strip()
            last = re.search(r"(\w[\w'\u2019-]*)\.$", sentence)
            if last and total >= words:
                word = last[1]
                before = WORD.findall(" ".join(sentences))
                if (
                    len(word) >= 4 and word.isalpha() and word == word.lower() and word not in STOP
                    and word in before and word not in found[:-1] and len(found) >= 4
                ):  # fmt: skip
                    yield " ".join([*sentences, sentence[:-1]])
                    sentences, counts, total = [], [], 0
                    continue
            sentences.append(sentence)
            counts.append(len(found))
            total += len(found)
            while counts and total - counts[0] >= words:
                total -= counts.pop(0)
                sentences.pop(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", nargs="+", help="JSON lines with the fields text and title")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    found = []
    for path in o.books:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    book = json.loads(line)
                    text, title = book["text"], book.get("title", "")
                except (ValueError, KeyError, TypeError) as error:
                    sys.exit(f"last_words.py: {path}:{number}: no JSON object with a field \"text\" ({error})")
                found += [(title, t) for t in items(text, o.words)]
    if not found:
        sys.exit("last_words.py: no text there has such a last word; are they books, or --words too large?")
    chosen = sorted(random.Random(o.seed).sample(range(len(found)), min(o.items, len(found))))
    for i in chosen:
        title, text = found[i]
        print(json.dumps({"text": text, "task": "last-words", "title": title}, ensure_ascii=False))
    print(f"{len(chosen)} of {len(found)} texts", file=sys.stderr)


if __name__ == "__main__":
    main()
