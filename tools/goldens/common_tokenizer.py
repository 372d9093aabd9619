#!/usr/bin/env python3
"""Golden files of common/tokenizer, by the tokenizers library.

    tokenizer_text.txt        a training text: English, other scripts, code, numbers, white space
    tokenizer_gpt2.json       trained on it with GPT-2's pattern: ours must learn the same
    tokenizer_deepseek.json   DeepSeek-V3's three splits, added tokens of both kinds, and merges
                              written as "a b", as older files have them
    tokenizer_cases.json      texts and what they are in both
    tokenizer_splits.json     what odder patterns than those make of a text

    tools/goldens/common_tokenizer.py        needs tokenizers
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "common/tests/goldens"
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]

# Genesis 1 (King James), the first article of the Universal Declaration of Human Rights, and such.
TEXT = """\
In the beginning God created the heaven and the earth. And the earth was without form, and void; and
darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters. And
God said, Let there be light: and there was light. And God saw the light, that it was good: and God
divided the light from the darkness. And God called the light Day, and the darkness he called Night.
And the evening and the morning were the first day. And God said, Let there be a firmament in the
midst of the waters, and let it divide the waters from the waters. And God made the firmament, and
divided the waters which were under the firmament from the waters which were above the firmament: and
it was so. And God called the firmament Heaven. And the evening and the morning were the second day.

All human beings are born free and equal in dignity and rights. They're endowed with reason and
conscience; they'll act towards one another in a spirit of brotherhood, I'd say, and we've to.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen
begabt und sollen einander im Geiste der Brüderlichkeit begegnen.
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et
de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью
и должны поступать в отношении друг друга в духе братства.
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナ、ひらがな。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلًا وضميرًا.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ

int main(int argc, char **argv) {
    for (int i = 0; i < 10; i++)
        printf("%d: %s\\n", i, argv[i % argc]);   /* 1234567890 */
    return 0;
}
\tTab\t\tTabs   Spaces     12 123 1234 12345 3.14159 1,000,000 1/2 2024-01-31 x=1;y=2;
😀 😃😄 👍🏽 👩‍👩‍👧‍👦 ♥️ → ← ∑∫√ ½ ² № € £ «quoted» “curly” … —
"""

CASES = {
    "empty": "",
    "space": " ",
    "letter": "a",
    "newline": "\n",
    "English": "And God said, Let there be light; they're HE'LL don't I'd we've 'tis it's 'S",
    "unseen": "Zyzzyva quixotic floccinaucinihilipilification",
    "spaces": "a  b   c    d     \te\t\t f \n\n g\r\n\r\nh \u00a0i\u3000j\u2028k\u2029l   ",
    "space at the end": "the end   ",
    "space at the start": "   the start",
    "newlines": "\n\n\n  \n  \n x\r\r\n",
    "digits": "1 12 123 1234 12345678901 3.14 ٣٤٥ १२३४ Ⅷ ½ ²³ 10km 7th",
    "accents": "Würde égaux ÀÉÎÕÜ ñ ß ø ł İı",
    "combining": "e\u0301a\u0308 n\u0303\u0301 o\u0302\u0323 \u0301alone",
    "Greek and Cyrillic": "Όλοι οι άνθρωποι. Все люди рождаются свободными",
    "Chinese": "人人生而自由,在尊严和权利上一律平等。你好，世界！中文English混合123文字",
    "Japanese": "すべての人間はカタカナとひらがなー々〆 ｶﾀｶﾅ",
    "Korean": "모든 인간은 태어날 때부터",
    "Arabic": "يولد جميع الناس أحرارًا متساوين ـــ ‏RTL‎",
    "Hebrew": "כל בני האדם נוֹלְדוּ",
    "Hindi": "सभी मनुष्यों को क्षत्रिय",
    "Thai": "มนุษย์ทั้งหลาย",
    "emoji": "😀😃 👍🏽👍🏿 👩‍👩‍👧‍👦 ♥️ 🇩🇪🇫🇷 1️⃣",
    "symbols": "→←∑∫√ € £¥ «» “” … — ‐ ‑ ′ ″ № ™ ©®",
    "punctuation": "!!! ... ??? -- --- (a)[b]{c}<d> \"e\" 'f' `g` a/b\\c #hash @at $5 %x ^y &z *w",
    "code": "def f(x):\n    return x**2  # comment\n\n\tif (a != b) { a->b(); }\n",
    "URL": "https://example.com/path?query=1&other=two#frag user@mail.org",
    "CamelCase": "camelCaseString snake_case_string SCREAMING_CASE kebab-case-string",
    "Mongolian separator": "a\u180eb \u180e \u180e\u180e c",
    "odd spaces": "a\u0085b\u1680c\u2000d\u200be\u202ff\u205fg\ufeffh\u001ci\u001fj\u000bk\u000cl",
    "private and unassigned": "\ue000\uf8ff \u0378 \U000e0041 \U0010ffff \ufffd \ufffe",
    "long word": "ab" * 150 + "the" * 50,
    "long spaces": " " * 300 + "x" + "\n" * 100,
    "long Chinese": "自由平等" * 30,
    "end of text": "one<|endoftext|>two <|endoftext|> three<|endoftext|><|endoftext|>",
    "nearly special": "<|endoftext|<|endoftext|> <|end of text|> <|endoftext",
    "added": "<｜begin▁of▁sentence｜>Hi<think>a<thinking>b</think> <|User|>c<|User|><｜Us",
    "added, overlapping": "a<think>b a<think b a<thi <thin<think> <think<|User|><|User|",
    "cut spaces": "<think> a b c <think>  x\n <|User|>\n\n y",
}


# What a pattern's engine must do alike: classes, white space, empty matches, lookaround, gaps.
SPLITS = [
    [r"\s+"], [r"\S+"], [r"[\s]+"], [r"[^\s]+"], [r"[\S]+"], [r"[^\S]+"], [r"[^\S\r\n]+"], [r"[]\s]+"],
    [r"\d+"], [r"\D+"], [r"\p{Lu}"], [r"(?i:AB)"], [r"(?=b)"], [r"(?<=b)"], [r"b*"], [r"x*"],
    [r"(?!\S)"], [r"\p{M}"], [r"a|ab"], [r"^."], [r".$"], [r"."], [r"[\[\]\\]"], [r"\p{P}"],
    [r"\d", r"\s"], [r"b*", r"\s+(?!\S)|\s+", r"(?=\d)"],
]
SPLIT_TEXT = ("aAb bbxab\u180e \u180e\u0085\u00a0\u2028  1\u0663\u00bd2\u00c9e\u0301 \U0001f600[\\]!"
              "\n\r\n\t b\u200b\u3000.\u4e2d12 ")


def mixed(seed):
    """Pieces of the training text and of the cases, one after the other without regard for words."""
    pick = random.Random(seed)
    source = TEXT + "".join(CASES.values())
    starts = [pick.randrange(len(source)) for _ in range(40)]
    return "".join(source[start:start + pick.randrange(1, 12)] for start in starts)


def train(pre_tokenizer, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def gpt2():
    tokenizer = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 699)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    return tokenizer


def deepseek():
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in DEEPSEEK]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = train(pre_tokenizers.Sequence(splits + [byte_level]), 700)
    tokenizer.add_special_tokens([
        AddedToken("<｜begin▁of▁sentence｜>", normalized=False, special=True),
        AddedToken("<|endoftext|>", normalized=False, special=True),
    ])
    tokenizer.add_tokens([
        AddedToken("<think>", normalized=False), AddedToken("<thinking>", normalized=False),
        AddedToken("</think>", normalized=False), AddedToken("<thi", normalized=False),
        AddedToken("<|User|>", normalized=True), AddedToken("User|><", normalized=True),
        AddedToken("a<think", normalized=True),  # never found in "a<think>": the others go first
    ])
    return tokenizer


def write_with_string_merges(tokenizer, path):
    file = json.loads(tokenizer.to_str())
    file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    path.write_text(json.dumps(file, ensure_ascii=False) + "\n")


def main():
    GOLDENS.mkdir(exist_ok=True)
    (GOLDENS / "tokenizer_text.txt").write_text(TEXT)
    cases = dict(CASES, **{f"mixed {seed}": mixed(seed) for seed in range(30)})
    tokenizers = {"gpt2": gpt2(), "deepseek": deepseek()}
    tokenizers["gpt2"].save(str(GOLDENS / "tokenizer_gpt2.json"), pretty=False)
    write_with_string_merges(tokenizers["deepseek"], GOLDENS / "tokenizer_deepseek.json")
    rows = [{"name": name, "text": text,
             **{key: tokenizers[key].encode(text, add_special_tokens=False).ids
                for key in tokenizers}} for name, text in cases.items()]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (GOLDENS / "tokenizer_cases.json").write_text(f"[\n{lines}\n]\n")
    splits = []
    for patterns in SPLITS:
        splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated")
                                            for pattern in patterns])
        words = [word for word, _ in splitter.pre_tokenize_str(SPLIT_TEXT)]
        splits.append(json.dumps({"patterns": patterns, "words": words}))
    lines = ",\n".join(splits)
    (GOLDENS / "tokenizer_splits.json").write_text(f"[\n{lines}\n]\n")
    for path in sorted(GOLDENS.glob("tokenizer_*")):
        print(path.relative_to(ROOT), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
