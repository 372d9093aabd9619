/* What a page may send, and what it gets: limits, broken numbers, cut texts, JSON. */
#include "common/program/web.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static void send(const char *lines) { memcpy(web_input(strlen(lines)), lines, strlen(lines)); }

Test(web, numbers_are_within_their_limits) {
    static const struct {
        const char *lines;
        double value;
    } cases[] = {{"x=2.5", 2.5}, {"x=-1", 0},     {"x=1e99", 10},    {"x=nan", 0},
                 {"x=inf", 10},  {"x=", 0},       {"x=word", 0},     {"", 0},
                 {"xx=3", 0},    {"y=7\nx=3", 3}, {"y=x=9\nx=4", 4}, {"x=5\nx=6", 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        send(cases[i].lines);
        cr_assert(web_number("x", 0, 10) == cases[i].value, "'%s'", cases[i].lines);
    }
    send("x=3.9");
    cr_assert(web_int("x", 0, 10) == 3);
}

Test(web, texts_are_cut_between_characters) {
    char text[4];
    send("a=x\nt=a\xc3\xb6\xc3\xb6z\nb=y"); /* three bytes have room: a and one o-umlaut */
    web_text(text, sizeof text, "t");
    cr_assert_str_eq(text, "a\xc3\xb6");
    web_text(text, 3, "t");
    cr_assert_str_eq(text, "a");
    web_text(text, sizeof text, "missing");
    cr_assert_str_eq(text, "");
}

Test(web, lists_take_what_is_a_number) {
    float x[4];
    send("l= 1,2.5;-3 and nan 1e30 7 8");
    cr_assert(web_list(x, 4, "l", -2, 100) == 4);
    cr_assert(x[0] == 1 && x[1] == 2.5f && x[2] == -2 && x[3] == 100);
    cr_assert(web_list(x, 4, "none", 0, 1) == 0);
}

Test(web, answers_are_json) {
    send("");
    cr_assert_str_eq(web_answer(), "{}");
    send("");
    web_value("half", 0.5);
    web_value("nothing", NAN);
    web_floats("list", (float[]){1, INFINITY}, 2);
    web_ints("empty", NULL, 0);
    web_string("text", "a \"b\" \\ \n");
    cr_assert_str_eq(web_answer(), "{\"half\":0.5,\"nothing\":null,\"list\":[1,null],\"empty\":[],"
                                   "\"text\":\"a \\\"b\\\" \\\\ \\u000a\"}");
    send("x=1");
    cr_assert_str_eq(web_answer(), "{}", "an answer is forgotten with the next question");
}
