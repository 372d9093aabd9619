"""Source files as pages with numbered lines, and the colours of code: comments, texts, numbers,
words of the language. A regular expression for each kind of file is all there is to it; what it
does not know stays black.
"""

import html
import re

WORDS = {
    "c": "auto bool break case char const continue default do double else enum extern float for goto if "
    "inline int int32_t int64_t int8_t long register restrict return short signed size_t sizeof static "
    "struct switch typedef uint16_t uint32_t uint64_t uint8_t union unsigned void volatile while "
    "__global__ __device__ __shared__ __host__ template typename constexpr namespace using class auto",
    "python": "and as assert break class continue def del elif else except finally for from global if import "
    "in is lambda nonlocal not or pass raise return try while with yield None True False",
    "sh": "if then else elif fi for in do done while case esac function local return exit",
    "js": "const let var function return if else for while of in new class extends import export async await "
    "true false null this switch case break continue default throw try catch",
}
PATTERNS = {
    "c": r"(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<pre>^[ \t]*\#[^\n]*)|(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+')",
    "python": r"(?P<comment>\#[^\n]*)|(?P<text>\"\"\".*?\"\"\"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')",
    "sh": r"(?P<comment>(?:(?<=\s)|^)\#[^\n]*)|(?P<text>\"(?:\\.|[^\"\\])*\"|'[^'\n]*')",
}
PATTERNS["js"] = PATTERNS["c"].replace(r"|(?P<pre>^[ \t]*\#[^\n]*)", "")
NUMBER = r"|(?P<number>\b(?:0x[\da-fA-F.p+-]+|\d[\d.]*(?:[eE][+-]?\d+)?)[fFuUlL]*\b)|(?P<word>\b[A-Za-z_]\w*\b)"
LEXERS = {kind: re.compile(p + NUMBER, re.S | re.M) for kind, p in PATTERNS.items()}
KIND = {
    ".c": "c", ".h": "c", ".cu": "c", ".cuh": "c", ".py": "python", ".sh": "sh", ".js": "js",
    "c": "c", "cuda": "c", "python": "python", "sh": "sh", "bash": "sh", "": None,
}  # fmt: skip


def coloured(text, kind):
    """text as HTML; kind is a file's ending or the word behind the fence of a code block."""
    language = KIND.get(kind)
    if not language:
        return html.escape(text, quote=False)
    words, out, at = set(WORDS[language].split()), [], 0
    for m in LEXERS[language].finditer(text):
        name = m.lastgroup
        if name == "word" and m[0] not in words:
            continue
        out.append(html.escape(text[at : m.start()], quote=False))
        # A comment of many lines is coloured line by line: each line is an element of its own.
        lines = html.escape(m[0], quote=False).split("\n")
        out.append(
            "\n".join(f'<span class="{name[0]}">{line}</span>' if line else "" for line in lines)
        )
        at = m.end()
    out.append(html.escape(text[at:], quote=False))
    return "".join(out)


def numbered(text, kind):
    """A file as <pre>, each line an anchor: #L12."""
    lines = coloured(text.rstrip("\n"), kind).split("\n")
    body = "\n".join(f'<span id="L{i}">{line}</span>' for i, line in enumerate(lines, 1))
    return f'<pre class="source"><code>{body}\n</code></pre>'
