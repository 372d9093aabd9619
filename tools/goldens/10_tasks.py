#!/usr/bin/env python3
"""Golden folder of chapter 10: tasks, and what transformers makes of them.

    python tools/goldens/10_tasks.py      needs torch, safetensors, tokenizers and transformers

10_full_model/goldens/tasks/ is a small random model with a tokenizer of its own, tasks.jsonl in all three
forms of evaluate/tasks.h, and expected.safetensors:

    logprobs [N]   log-likelihood of every choice of every item, in the order of the file, float64 inside
    greedy [N]     1 where each of its tokens is the likeliest, as I32
    cut [items]    1 where the context is too long and its beginning is left out
    scores [tasks, 6]   acc, acc_norm, perplexity, each with its standard error; NaN where there is none

The rules are those of lm-eval 0.4: spaces at the context's end go to the continuation, both are encoded as
one, an empty context is the token that begins a text, the end of a long context stays; acc_norm divides by
characters; standard errors divide by n - 1. Items are scored one by one, nothing is padded.
"""
import importlib
import json
import math
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

plain = importlib.import_module("10_full_model")

FOLDER = plain.OUT / "tasks"
LONGEST, VOCABULARY, END = 32, 340, "<|endoftext|>"

SENTENCES = """the cat sat on the mat and the dog lay on the log
a bird that the cats have seen sings in the old tree
the children who live near the river walk to school
she has never seen the sea but he has sailed on it
nobody in the village knows where the road begins
the letters were written by the captain himself
""".splitlines()
PAIRS = [
    ("agreement", "morphology", "the cats sit on the mat", "the cats sits on the mat"),
    ("agreement", "morphology", "The bird sings in the old tree.", "The bird sing in the old tree."),
    ("agreement", "morphology", "a dog lies", "a dog lie"),
    ("anaphor", "morphology", "the captain saw himself", "the captain saw herselves"),
    ("anaphor", "morphology", "She has seen herself.", "She has seen himself often."),
    ("island", "syntax", "who did the captain see after he sailed", "who did the captain see the dog after he sailed"),
    ("island", "syntax", "where does the road begin", "where does the road begins"),
    ("caf\u00e9", "", "the caf\u00e9 is old", "the caf\u00e9 are old \u2014 na\u00efve"),
    ("caf\u00e9", "", "nobody knows", "nobody know"),
]
CHOICES = [
    ("The cat sat on the", ["mat", "logarithm", "sea and the river"], 0),
    ("Question: who sailed on the sea?\nAnswer:", ["she", "he", "nobody", "the captain himself"], 1),
    ("", ["the dog lay on the log", "log the on lay dog the"], 0),
    ("a space stands behind this: ", ["and that", "or this"], 1),
    ("the children who live near the river walk to school and the letters were written by the captain himself "
     "and nobody in the village knows where the road begins", ["\u00e9t\u00e9", "summer", "winter \u2603"], 2),
    ("where the road begins", ["there", "here"], 0),
]  # fmt: skip
WORDS = ["the cat sat on the mat and the dog lay on the log", "nobody knows where the road\nbegins ",
         "she has never seen the sea, but he has sailed on the sea"]  # fmt: skip


def learn():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


class Judge:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.begin = tokenizer.token_to_id(END)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def rows(self, ids):
        return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].detach().double(), -1)

    def score(self, context, continuation):
        """log-likelihood, greedy, cut"""
        stripped = context.rstrip(" \t\r\n")
        continuation, context = context[len(stripped) :] + continuation, stripped
        whole = self.ids(context + continuation)
        before = len(self.ids(context))
        if not context:
            whole, before = [self.begin, *whole], 1
        asked = len(whole) - before
        kept = whole[-(LONGEST + 1) :]
        rows = self.rows(kept[:-1])[-asked:]
        wanted = torch.tensor(kept[-asked:])
        return rows.gather(1, wanted[:, None]).sum().item(), bool((rows.argmax(-1) == wanted).all()), len(kept) < len(whole)

    def guessed(self, count):
        """Texts whose last word is the one that the model finds the likeliest, and one token."""
        words = [w for line in SENTENCES for w in line.split()]
        found = []
        while len(found) < count:
            context = " ".join(words[i] for i in torch.randint(0, len(words), (6,)))
            best = self.rows(self.ids(context))[-1].argmax().item()
            word = self.tokenizer.decode([best])
            text = context + word
            if word[1:].isalpha() and word[0] == " " and self.ids(text)[-1] == best and len(self.ids(text)) == len(self.ids(context)) + 1:
                found.append(text)
        return found

    def turned_by_bytes(self):
        """Two choices, of which the first has more for a character, and the second for a byte."""
        accents = "\u00e9t\u00e9 \u00e9t\u00e9"
        theirs = self.score("the captain", " " + accents)[0]
        for word in ("sat", "Q", "zz", "%%", "KX", "the log", "road", "letters!"):
            own = self.score("the captain", " " + word)[0] / len(word)
            if theirs / len(accents) < own - 1e-3 and own + 1e-3 < theirs / len(accents.encode()):
                return [word, accents]
        raise SystemExit("no word is between; try others")


def mean(values):
    n = len(values)
    m = sum(values) / n
    return m, math.sqrt(sum((v - m) ** 2 for v in values) / (n * (n - 1)))


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.manual_seed(7)
    tokenizer = learn()
    size = tokenizer.get_vocab_size()
    model = plain.make("deepseek_v3", dict(vocab_size=size, max_position_embeddings=LONGEST,
                                           bos_token_id=tokenizer.token_to_id(END), eos_token_id=tokenizer.token_to_id(END)))  # fmt: skip
    model.save_pretrained(FOLDER)
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    plain.in_float64(True)
    model = plain.load(FOLDER, torch.float64)
    for _, t in model.named_buffers():
        t.data = t.data.double()
    judge = Judge(model, tokenizer)

    items = [dict(good=g, bad=b, task=t, **(dict(field=f) if f else {})) for t, f, g, b in PAIRS]
    items += [dict(context=c, choices=x, answer=a, task="questions") for c, x, a in CHOICES]
    items.append(dict(context="the captain", choices=judge.turned_by_bytes(), answer=0, task="questions"))
    items += [dict(text=t) for t in [*WORDS, *judge.guessed(2)]]
    logprobs, greedy, cut, tasks = [], [], [], {}
    for item in items:
        if "good" in item:
            context, choices, answer = "", [item["good"], item["bad"]], 0
        elif "choices" in item:
            context, choices, answer = item["context"], item["choices"], item["answer"]
        else:
            context, word = item["text"].rstrip().rsplit(None, 1)
            choices, answer = [word], 0
        space = "" if not context or context[-1].isspace() else " "
        found = [judge.score(context, space + c) for c in choices]
        logprobs += [f[0] for f in found]
        greedy += [f[1] for f in found]
        cut.append(any(f[2] for f in found))
        ll = [f[0] for f in found]
        norm = [x / len(c) for x, c in zip(ll, choices)]
        assert all(abs(x - y) > 1e-3 for x, y in [(sorted(v)[-1], sorted(v)[-2]) for v in (ll, norm) if len(v) > 1])
        right = ll.index(max(ll)) == answer if len(choices) > 1 else found[0][1]
        tasks.setdefault(item.get("task", "tasks"), []).append((right, norm.index(max(norm)) == answer, ll[0], len(choices)))
    plain.in_float64(False)
    scores = []
    for rows in tasks.values():
        ll = mean([r[2] for r in rows])
        scores.append([*mean([float(r[0]) for r in rows]),
                       *(mean([float(r[1]) for r in rows]) if rows[0][3] > 1 else (math.nan, math.nan)),
                       *((math.exp(-ll[0]), math.exp(-ll[0]) * ll[1]) if rows[0][3] == 1 else (math.nan, math.nan))])  # fmt: skip
    (FOLDER / "tasks.jsonl").write_text("".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items))
    save_file({"logprobs": torch.tensor(logprobs).float(), "greedy": torch.tensor(greedy).int(),
               "cut": torch.tensor(cut).int(), "scores": torch.tensor(scores).float()}, FOLDER / "expected.safetensors",
              metadata={"made_by": "tools/goldens/10_tasks.py", "torch": torch.__version__.split("+")[0]})  # fmt: skip
    size = sum(f.stat().st_size for f in FOLDER.iterdir())
    print(f"tasks: {len(items)} items, {len(logprobs)} texts, {len(tasks)} tasks; {sum(cut)} cut, {sum(greedy)} greedy; {size} bytes")
    for name, row in zip(tasks, scores):
        print(f"{name:12}", *(f"{x:8.4f}" for x in row))


if __name__ == "__main__":
    main()
