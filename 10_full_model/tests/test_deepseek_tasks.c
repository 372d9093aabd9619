/*
 * `eval --tasks` as a process: what it prints and writes, what it says of wrong flags and lines.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

#define PAIR(good, bad) "{\"good\": \"" good "\", \"bad\": \"" bad "\", \"task\": \"order\"}\n"

/* A model that knows its text by heart knows which sentence is one, and how it goes on. */
Test(eval_tasks, asks_what_was_learned) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *csv = path_in(w.directory, "t.csv"),
               *tasks = path_in(w.directory, "t.jsonl"), *more = path_in(w.directory, "last.jsonl");
    /* clang-format off */
    static const char text[] =
        PAIR("the cat sat on the mat", "the mat cat the sat on")
        PAIR("the dog sat on the log", "log the sat dog on the")
        PAIR("the frog sat in the fog", "fog frog the in sat the")
        PAIR("sat mat the on the cat", "the cat sat on the mat")
        "{\"context\": \"the cat sat on\", \"choices\": [\"log the\", \"the mat\"], "
        "\"answer\": 1, \"task\": \"which, one\", \"field\": \"f\"}\n";
    /* clang-format on */
    static const char words[] = "{\"text\": \"the cat sat on the mat and the dog sat on\"}\n"
                                "{\"text\": \"the frog sat in fog\"}\n";
    scratch_write(&w, "t.jsonl", text, strlen(text));
    scratch_write(&w, "last.jsonl", words, strlen(words));
    Output o =
        EXPECT(0, "order  ", "eval", "-m", model, "--tasks", tasks, "--tasks", more, "--csv", csv);
    expect(&o, 0, "     4 0.7500 0.2500     0.7500 0.2500\n");
    expect(&o, 0, "     1 1.0000            1.0000       \n");
    expect(&o, 0, "\nlast  ");
    for (char *line = strtok(strdup(o.out), "\n"); line; line = strtok(NULL, "\n"))
        cr_expect(strlen(line) < 80, "%zu columns: %s", strlen(line), line);
    char *table = file_text(csv, &(size_t){0});
    cr_expect(strstr(table, "\npairs,order,,0,4,0,0.75,0.25,0.75,0.25,,\n") &&
                  strstr(table, "\nchoices,\"which, one\",f,0,1,0,1,,1,,,\n") &&
                  strstr(table, "\nwords,last,,0,2,0,0.5,0.5,,,"),
              "%s", table);
    /* Of more than four tokens it sees the last ones, and says so. */
    o = EXPECT(0, "saw the end only: 1 context)", "eval", "-m", model, "--tasks", more, "--context",
               "4");
}

Test(eval_tasks, wrong_flags_and_lines) {
    Scratch w = workplace();
    const char *model = trained_model(&w), *tasks = path_in(w.directory, "t.jsonl"),
               *text = path_in(w.directory, "text.txt"), *csv = path_in(w.directory, "t.csv");
    static const char broken[] = PAIR("the cat", "cat the") "\n{\"good\": 1}\n";
    scratch_write(&w, "t.jsonl", broken, strlen(broken));
    EXPECT(2, "or --tasks FILE on which tasks", "eval", "-m", model);
    EXPECT(2, "give one", "eval", "-m", model, "--tasks", tasks, "--data", text);
    EXPECT(2, "--by-position is for a text", "eval", "-m", model, "--tasks", tasks,
           "--by-position");
    EXPECT(2, "are for --tasks", "eval", "-m", model, "--data", text, "--batch", "3");
    EXPECT(1, "t.jsonl:3: ", "eval", "-m", model, "--tasks", tasks, "--csv", csv);
    cr_assert_not(exists(w.directory, "t.csv"));
    EXPECT(0, "(1 bad line is left out: ", "eval", "-m", model, "--tasks", tasks, "--bad-lines",
           "skip");
    EXPECT(1, "cannot open /nowhere", "eval", "-m", model, "--tasks", "/nowhere");
    EXPECT(1, "this model's 64 positions", "eval", "-m", model, "--tasks", tasks, "--bad-lines",
           "skip", "--context", "65");
    EXPECT(1, "t.jsonl:1: what is to be judged has", "eval", "-m", model, "--tasks", tasks,
           "--bad-lines", "skip", "--context", "1");
    scratch_write(&w, "t.csv", "mine", 4);
    EXPECT(1, "is no table of this program", "eval", "-m", model, "--tasks", tasks, "--bad-lines",
           "skip", "--csv", csv);
}
