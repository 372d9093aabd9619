#!/usr/bin/env python3
"""Golden files of common/tokenizer, by the tokenizers library.

    tokenizer_text.txt        a training text: English, other scripts, code, numbers, white space
    tokenizer_gpt2.json       trained on it with GPT-2's pattern: ours must learn the same
    tokenizer_deepseek.json   DeepSeek-V3's three splits, added tokens of both kinds, and merges
                              written as "a b", as older files have them
    tokenizer_cases.json      texts and what they are in both
    tokenizer_splits.json     what odder patterns than those make of a text
    tokenizer_steps.json      all five behaviors of a Split, and its relatives by other names
    tokenizer_patterns.json   patterns by chance, out of all that the engine's syntax has, and the
                              lengths of the words that each makes of one text; null: refused

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


# Which of them are also encoded with a space before every text, as ByteLevel's add_prefix_space asks.
PREFIXED = ["empty", "space", "letter", "newline", "English", "space at the start", "end of text", "added"]

# What a pattern's engine must do alike: classes, white space, empty matches, lookaround, gaps.
SPLITS = [
    [r"\s+"], [r"\S+"], [r"[\s]+"], [r"[^\s]+"], [r"[\S]+"], [r"[^\S]+"], [r"[^\S\r\n]+"], [r"[]\s]+"],
    [r"\d+"], [r"\D+"], [r"\p{Lu}"], [r"(?i:AB)"], [r"(?=b)"], [r"(?<=b)"], [r"b*"], [r"x*"],
    [r"(?!\S)"], [r"\p{M}"], [r"a|ab"], [r"^."], [r".$"], [r"."], [r"[\[\]\\]"], [r"\p{P}"],
    [r"\d", r"\s"], [r"b*", r"\s+(?!\S)|\s+", r"(?=\d)"],
]
SPLIT_TEXT = ("aAb bbxab\u180e \u180e\u0085\u00a0\u2028  1\u0663\u00bd2\u00c9e\u0301 \U0001f600[\\]!"
              "\n\r\n\t b\u200b\u3000.\u4e2d12 ")


# The same texts for each behavior, and for steps with names of their own.
STEPS = [
    *(pre_tokenizers.Split(Regex(pattern), behavior, invert)
      for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
      for pattern, invert in [(r"\s", False), (r"\w+|[^\w\s]+", True), (r"b*", False), (r"[b ]", True)]),
    pre_tokenizers.Split(".", "isolated"), pre_tokenizers.Split("[\\]!", "merged_with_next"),
    pre_tokenizers.Split("b", "contiguous", True),
    pre_tokenizers.Digits(False), pre_tokenizers.Digits(True),
    pre_tokenizers.Punctuation(), pre_tokenizers.Punctuation("contiguous"),
    pre_tokenizers.Punctuation("removed"), pre_tokenizers.Punctuation("merged_with_previous"),
    pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit(),
    pre_tokenizers.Sequence([pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()]),
                             pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]),
]
STEP_TEXT = (SPLIT_TEXT + "x_y  $5+6^~`|<=> \u24b6\u2160\u200d\u0bcd\u00a7\u00bf\u2014\uff01 "
             "e\u0308\u203f \u00b2 12 3,4\u0967 ")

# What published tokenizers ask for, beside GPT-2's and DeepSeek-V3's, and what has gone wrong in
# other engines: intersections, nested and POSIX classes, quantifiers on quantifiers.
PUBLISHED = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve"
    r"|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s"
    r"|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}"
    r"\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+", r"\s+$",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"[一-龥ࠀ-一가-퟿]+", r"[0-9][0-9][0-9]",
    r"[a-z&&[^aeiou]]+", r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)", r"\p{N}{,3}|\p{L}+", r"\p{N}{2}?",
    r"\p{L}{1,2}+", r"a{2}+", r"a{,2}?", r"a++b", r"a*+", r"a?+b", r"a??b", r"a+?b", r"a{1,2}{2}",
    r"[[a-c]&&[^b]]+", r"[a[b-d]1]+", r"[^a[b-d]]+", r"[[:alpha:]]+", r"[[:^alpha:]]+",
    r"[[:punct:]]", r"[[:word:]&&[^_]]+", r"[[:digit:][:space:]]+", r"[[:upper:]]", r"[[:graph:]]+", r"\p{Punct}+", r"\p{Graph}+", r"[[:print:]]+", r"[[:cntrl:]]", r"[[:xdigit:]]+",
    r"[[:blank:]]", r"[[:^punct:]]+", r"[a[:punct:]b]+", r"[[:punct:]&&[^-]]+", r"\R+", r"\R*x", r"[\R]", r"\R{2}",
    r"\\R", r"[]\R[:punct:]]", r"\[[:punct:]]", r"[\]\R]",
    r"\h+", r"\H+", r"\R", r"\b", r"\B", r"\b\w", r"\w+", r"\W+", r"(?m)a.b", r"(?m).+", r"a$", r"^\s*",
    r"\Z", r"\z", r"(?i)ss", r"(?i)ß", r"(?i:k)", r"(?i)[a-z&&[^k]]+", r"(?i:İ)", r"(?x) a b # c",
    r"(?<=a)b", r"(?<!a)b", r"(?<=\s|^)\w", r"(?>a+)ab", r"(a)\1", r"(?<n>b)\k<n>", r"\x{4e2d}",
    r"\u4E2D", r"\p{^L}+", r"\P{L}+", r"\p{Script=Han}", r"\p{InBasicLatin}", r"\p{Latin}+",
    r"\p{Emoji}", r"[\p{L}--[a]]", r"[a~~b]", r"[]a]", r"[^]a]+", r"[a-\d]", r"[\w-]+", r"[a-]+", r"{", r"a{",
    r"a{,}", r"a{x}", r"}", r"]", r"*", r"(", r")", r"a|", r"|a", r"(?:)", r"(?=)", "\\", r"\Q.\E", r"\K", r"a\Kb",
    r"\G.", r"\X", r"\N+", r"\O", r"(?~ab)", r"\y", r"(?y{w})\y", r"\e|\a|\t|\n", r"\052", r"\cA", r"(?a)\w",
    r"(?W:\w+)", r"(?#c)a", r"(?P<n>a)", r"(?<n>a)\g<n>", r"(?i-m:A.)", r"(?-i)a", r"(?s).", r"[[.a.]]", r"[[=a=]]",
    r"[[:nope:]]", r"\p{Nope}", r"a{2,1}", r"a{100001}", r"[z-a]", r"(?<=a*)b", r"(?<=a|bc)d", r"(?(1)a|b)",
    r"(a)?(?(1)b|c)", r"\d+(?=\D)", r"\p{Zs}+", r"\p{Cc}", r"\p{Cf}", r"\p{Cn}", r"\p{Co}", r"\p{Sc}",
]
PATTERN_TEXT = ("aab abc AB b\t\ncd'll I'VE 12345 67,8 \u00e9e\u0301\u00df\u017f\u212aK \u4e2d\u6587x\u3042\u30a2"
                "\r\n\n  f09 Zz_z-[x]{y}\\ \u00a0\u3000$\u20ac\U0001f600\u200d. \u0660\u00bd\u2167 aaa  ")
ATOMS = [*"abcABzk1 é中'", r"\w", r"\W", r"\d", r"\D", r"\s", r"\S", r"\h", ".", "^", "$", r"\b", r"\B", r"\A", r"\z", r"\p{L}",
         r"\p{N}", r"\p{P}", r"\p{S}", r"\p{M}", r"\p{Lu}", r"\p{Ll}", r"\p{Han}", r"\P{L}", r"\p{^N}", r"\R", r"\n", r"\x{3042}"]
ITEMS = ["a", "b", "k", "A-C", "a-z", "0-9", r"\s", r"\S", r"\w", r"\W", r"\d", r"\h", r"\p{L}", r"\p{N}", r"\p{^L}", r"\P{N}", r"\r\n", "_",
         "[:alpha:]", "[:^digit:]", "[:punct:]", "[:space:]", "[:upper:]", "[:word:]", "é", "一-龥", "[b-d]", "[^a-f]", r"[^\s]", "-", "]"]
QUANTIFIERS = ["", "", "", "", "?", "*", "+", "??", "*?", "+?", "?+", "*+", "++", "{2}", "{1,3}", "{,2}", "{2,}", "{2}?", "{2}+",
               "{1,2}+", "{,2}?", "{1,2}?", "+*", "{2}{2}"]


def random_class(pick):
    part = lambda: "".join(pick.choice(ITEMS) for _ in range(pick.randrange(1, 4)))
    text = "&&".join(part() for _ in range(pick.choice([1, 1, 2, 2, 3])))
    return "[" + pick.choice(["", "^"]) + text + "]"


def random_pattern(pick, depth=0):
    """A pattern out of alternatives of pieces; often enough one that is refused."""
    def piece():
        kind = pick.randrange(10)
        if kind < 4 or depth == 3:
            text = pick.choice(ATOMS)
        elif kind < 7:
            text = random_class(pick)
        else:
            opening = pick.choice(["(", "(?:", "(?:", "(?i:", "(?m:", "(?i-m:", "(?=", "(?!", "(?<=", "(?<!", "(?>"])
            text = opening + random_pattern(pick, depth + 1) + ")"
        return text + pick.choice(QUANTIFIERS)
    return "|".join("".join(piece() for _ in range(pick.randrange(1, 4))) for _ in range(pick.choice([1, 1, 1, 2, 3])))


def lengths(pattern):
    """Of the words, in bytes; None: the pattern is refused."""
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:
        return None
    return [len(word.encode()) for word, _ in split.pre_tokenize_str(PATTERN_TEXT)]


def write_patterns(path):
    pick = random.Random(1)
    patterns = PUBLISHED + [random_pattern(pick) for _ in range(800)]
    rows = [json.dumps({"text": PATTERN_TEXT}, ensure_ascii=False)]
    for pattern in dict.fromkeys(patterns):
        try:
            row = [pattern, lengths(pattern)]
        except BaseException:  # the library panics: too many steps
            continue
        if row[1] is None and pattern not in PUBLISHED and pick.randrange(8):
            continue  # a few are enough
        rows.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


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
    prefixed = Tokenizer.from_str(tokenizers["gpt2"].to_str())
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    rows = [{"name": name, "text": text,
             **{key: tokenizers[key].encode(text, add_special_tokens=False).ids
                for key in tokenizers},
             **({"prefixed": prefixed.encode(text, add_special_tokens=False).ids}
                if name in PREFIXED else {})} for name, text in cases.items()]
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
    rows = [{"text": STEP_TEXT}] + [
        {"pre_tokenizer": json.loads(step.__getstate__()),
         "words": [word for word, _ in step.pre_tokenize_str(STEP_TEXT)]} for step in STEPS]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    (GOLDENS / "tokenizer_steps.json").write_text(f"[\n{lines}\n]\n")
    write_patterns(GOLDENS / "tokenizer_patterns.json")
    for path in sorted(GOLDENS.glob("tokenizer_*")):
        print(path.relative_to(ROOT), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
