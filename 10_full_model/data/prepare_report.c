/*
 * A run in words and numbers: the settings and the report as JSON, the table for the terminal, and
 * the chart of what was dropped. Settings are compared as JSON, so whatever is listed here is what
 * makes two runs different.
 */
#include "10_full_model/data/prepare.h"

#include "common/files/csv.h"
#include "common/program/plot.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const char *const prepare_stage_names[STAGES] = {"read",     "normalise",  "exact duplicates",
                                                 "judge",    "signatures", "near duplicates",
                                                 "tokenise", "write"};

const char *prepare_outcome_name(int outcome) {
    static const char *const names[OUTCOME_RULE] = {
        "train", "validation",      "bad line",      "invalid UTF-8",
        "empty", "exact duplicate", "near duplicate"};
    return outcome < OUTCOME_RULE ? names[outcome] : quality_rules[outcome - OUTCOME_RULE].name;
}

static int64_t sum(const int64_t *values, int first, int count) {
    int64_t total = 0;
    for (int i = first; i < count; i++) total += values[i];
    return total;
}

/* ---- JSON ---- */

/* An unlimited end is null: JSON has no infinity. */
static cJSON *limit(double value) {
    return isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull();
}

static cJSON *limits_json(const QualityLimits *limits) {
    cJSON *object = cJSON_CreateObject();
    for (int i = 0; i < QUALITY_RULES; i++) {
        cJSON *pair = cJSON_CreateArray();
        cJSON_AddItemToArray(pair, limit(limits->low[i]));
        cJSON_AddItemToArray(pair, limit(limits->high[i]));
        cJSON_AddItemToObject(object, quality_rules[i].name, pair);
    }
    return object;
}

static void add_files(cJSON *settings, const char *name, const char *const *paths, int count) {
    cJSON *files = cJSON_AddArrayToObject(settings, name);
    for (int i = 0; i < count; i++) {
        struct stat info;
        cJSON *file = cJSON_CreateObject();
        cJSON_AddStringToObject(file, "file", paths[i]);
        if (stat(paths[i], &info) == 0)
            cJSON_AddNumberToObject(file, "bytes", (double)info.st_size);
        cJSON_AddItemToArray(files, file);
    }
}

cJSON *prepare_settings(const PrepareOptions *o) {
    static const char *const formats[] = {"by name", "text", "jsonl"};
    static const char *const splits[] = {"file", "paragraphs", "lines"};
    cJSON *s = cJSON_CreateObject();
    add_files(s, "inputs", o->paths, o->path_count);
    if (o->held_out_count) add_files(s, "held_out", o->held_out, o->held_out_count);
    cJSON_AddStringToObject(s, "format", formats[o->documents.format]);
    cJSON_AddStringToObject(s, "split", splits[o->documents.split]);
    cJSON_AddNumberToObject(s, "cut", (double)o->documents.cut);
    cJSON_AddStringToObject(s, "field", o->documents.field);
    cJSON_AddStringToObject(s, "end_of_text", o->documents.marker);
    cJSON_AddStringToObject(s, "bad_lines", o->skip_bad_lines ? "skip" : "stop");
    cJSON_AddStringToObject(s, "invalid_utf8", o->drop_invalid ? "drop" : "replace");
    cJSON_AddBoolToObject(s, "exact_duplicates", o->exact);
    cJSON_AddNumberToObject(s, "near_duplicates", o->near);
    cJSON_AddNumberToObject(s, "bands", o->bands);
    cJSON_AddNumberToObject(s, "rows", o->rows);
    cJSON_AddNumberToObject(s, "shingle", o->shingle);
    cJSON_AddItemToObject(s, "limits", limits_json(&o->limits));
    if (!o->held_out_count) cJSON_AddNumberToObject(s, "validation", o->validation);
    char seed[24]; /* as text: a double holds 53 of its 64 bits */
    snprintf(seed, sizeof seed, "%" PRIu64, o->seed);
    cJSON_AddStringToObject(s, "seed", seed);
    if (o->tokenizer) {
        cJSON_AddStringToObject(s, "tokenizer", o->tokenizer);
    } else {
        cJSON_AddNumberToObject(s, "vocab", o->vocab);
        cJSON_AddNumberToObject(s, "sample_bytes", (double)o->sample_bytes);
    }
    cJSON_AddNumberToObject(s, "shard_tokens", (double)o->shard_tokens);
    return s;
}

cJSON *prepare_report_json(const PrepareOptions *o, const PrepareReport *r) {
    cJSON *json = cJSON_CreateObject(), *object, *item;
    cJSON_AddItemToObject(json, "settings", prepare_settings(o));
    cJSON_AddNumberToObject(json, "input_bytes", (double)r->input_bytes);
    cJSON_AddNumberToObject(json, "documents", (double)sum(r->documents, 0, OUTCOMES));
    object = cJSON_AddObjectToObject(json, "outcomes");
    for (int i = 0; i < OUTCOMES; i++) {
        item = cJSON_AddObjectToObject(object, prepare_outcome_name(i));
        cJSON_AddNumberToObject(item, "documents", (double)r->documents[i]);
        cJSON_AddNumberToObject(item, "bytes", (double)r->bytes[i]);
    }
    cJSON_AddNumberToObject(json, "invalid_utf8_replaced", (double)r->replaced);
    if (r->first_bad_line[0]) cJSON_AddStringToObject(json, "first_bad_line", r->first_bad_line);
    for (int part = 0; part < SHARD_PARTS; part++) {
        object = cJSON_AddObjectToObject(json, shard_part_names[part]);
        cJSON_AddNumberToObject(object, "tokens", (double)r->tokens[part]);
        cJSON_AddNumberToObject(object, "text_bytes", (double)r->text_bytes[part]);
        cJSON_AddNumberToObject(object, "shards", r->shards[part]);
    }
    cJSON_AddNumberToObject(json, "vocab_size", r->vocab_size);
    object = cJSON_AddArrayToObject(json, "lengths");
    for (int bin = 0; bin < LENGTH_BINS; bin++) {
        if (!r->lengths[bin]) continue;
        item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "tokens_from", (double)(1ll << bin));
        cJSON_AddNumberToObject(item, "documents", (double)r->lengths[bin]);
        cJSON_AddItemToArray(object, item);
    }
    cJSON_AddNumberToObject(json, "duplicate_index_bytes", (double)r->memory_bytes);
    cJSON_AddNumberToObject(json, "seconds", r->seconds);
    cJSON_AddNumberToObject(json, "tokenizer_seconds", r->tokenizer_seconds);
    object = cJSON_AddObjectToObject(json, "core_seconds");
    for (int stage = 0; stage < STAGES; stage++)
        cJSON_AddNumberToObject(object, prepare_stage_names[stage], r->core_seconds[stage]);
    return json;
}

/* ---- messages ---- */

int prepare_report_nothing(const PrepareReport *r, const char *what, Error *err) {
    char text[700] = "";
    for (int i = OUTCOME_BAD_LINE; i < OUTCOMES; i++) {
        size_t used = strlen(text);
        if (!r->documents[i]) continue;
        snprintf(text + used, sizeof text - used, "%s%lld by \"%s\"", used ? ", " : "",
                 (long long)r->documents[i], prepare_outcome_name(i));
    }
    int64_t total = sum(r->documents, 0, OUTCOMES);
    if (r->documents[OUTCOME_VALIDATION])
        return error_set(
            err, "%s: all of the %lld documents that are left fell to validation; give more text",
            what, (long long)r->documents[OUTCOME_VALIDATION]);
    const char *hint = "";
    if (sum(r->documents, OUTCOME_RULE, OUTCOMES)) hint = ". --limit NAME=off turns a rule off";
    if (r->documents[OUTCOME_RULE + QUALITY_STOP_WORDS])
        hint = ". --limit NAME=off turns a rule off; stop-words is for English text";
    return error_set(err, "%s: no document is left of %lld: %s%s", what, (long long)total, text,
                     hint);
}

static void show_outcomes(const PrepareReport *r) {
    int64_t total = sum(r->documents, 0, OUTCOMES);
    printf("%16s %14s %16s\n", "", "documents", "bytes");
    printf("%-16s %14lld %16lld\n", "read", (long long)total,
           (long long)sum(r->bytes, 0, OUTCOMES));
    for (int i = OUTCOME_BAD_LINE; i < OUTCOMES; i++)
        if (r->documents[i])
            printf("- %-16s %12lld %16lld\n", prepare_outcome_name(i), (long long)r->documents[i],
                   (long long)r->bytes[i]);
    for (int i = OUTCOME_TRAIN; i <= OUTCOME_VALIDATION; i++)
        printf("= %-16s %12lld %16lld   %lld tokens, %d shard%s\n", prepare_outcome_name(i),
               (long long)r->documents[i], (long long)r->bytes[i], (long long)r->tokens[i],
               r->shards[i], r->shards[i] == 1 ? "" : "s");
    if (r->replaced) printf("%lld pieces of invalid UTF-8 became U+FFFD\n", (long long)r->replaced);
    if (r->first_bad_line[0]) printf("first bad line: %s\n", r->first_bad_line);
    if (!r->documents[OUTCOME_VALIDATION])
        printf("No document fell to validation: train wants some. Give more text, a larger\n"
               "--validation, or documents in smaller pieces (--cut, --split).\n");
}

/* More is left out than stays: does whoever began this know, and by which rule? counts: documents
 * or bytes, by outcome. */
static bool show_loss(const int64_t *counts, const char *what) {
    int64_t total = sum(counts, 0, OUTCOMES), left_out = sum(counts, OUTCOME_BAD_LINE, OUTCOMES);
    int most = OUTCOME_BAD_LINE;
    for (int i = most; i < OUTCOMES; i++)
        if (counts[i] > counts[most]) most = i;
    if (2 * left_out <= total) return false;
    printf("%.0f %% of the %s are left out, %.0f %% by \"%s\"", 100.0 * left_out / total, what,
           100.0 * counts[most] / total, prepare_outcome_name(most));
    if (most >= OUTCOME_RULE)
        printf(": --limit %s=off turns that rule off", prepare_outcome_name(most));
    printf(".\n");
    return true;
}

static void show_stages(const PrepareReport *r) {
    double total = 0;
    for (int stage = 0; stage < STAGES; stage++) total += r->core_seconds[stage];
    printf("\n%-18s %9s %6s %12s\n", "stage", "seconds", "share", "MB/s a core");
    for (int stage = 0; stage < STAGES; stage++) {
        double seconds = r->core_seconds[stage];
        printf("%-18s %9.2f %5.1f%% %12.0f\n", prepare_stage_names[stage], seconds,
               total > 0 ? 100 * seconds / total : 0,
               seconds > 0 ? r->stage_bytes[stage] / 1e6 / seconds : 0);
    }
    double rest = r->seconds - r->tokenizer_seconds;
    printf("%.1f MB in %.1f s: %.0f MB/s%s.\nThe documents seen take %.1f MB of memory.\n",
           (double)r->input_bytes / 1e6, r->seconds,
           rest > 0 ? (double)r->input_bytes / 1e6 / rest : 0,
           r->tokenizer_seconds > 0 ? " (learning the tokenizer aside)" : "",
           (double)r->memory_bytes / 1e6);
}

static int show_lengths(const PrepareOptions *o, const PrepareReport *r, Error *err) {
    char texts[LENGTH_BINS][32];
    const char *labels[LENGTH_BINS];
    double values[LENGTH_BINS];
    int first = 0, last = LENGTH_BINS - 1;
    while (first < last && !r->lengths[first]) first++;
    while (last > first && !r->lengths[last]) last--;
    Csv csv;
    PathText path = file_path(o->out, "lengths.csv");
    if (csv_open(&csv, path.text, "tokens_from,documents,tokens_to", "cpu", o->seed, err))
        return -1;
    for (int bin = first; bin <= last; bin++) {
        snprintf(texts[bin], sizeof texts[bin], "%lld..", 1ll << bin);
        labels[bin] = texts[bin];
        values[bin] = (double)r->lengths[bin];
        csv_row(&csv, "%lld,%lld,%lld", 1ll << bin, (long long)r->lengths[bin], (2ll << bin) - 1);
    }
    if (csv_close(&csv, err)) return -1;
    printf("\nTokens of a document:\n");
    text_bars(labels + first, values + first, last - first + 1, "documents");
    plot_or_explain("10_full_model/figures/lengths", path.text, file_path(o->out, "lengths").text);
    return 0;
}

int prepare_report_show(const PrepareOptions *o, const PrepareReport *r, Error *err) {
    show_outcomes(r);
    /* A few long ones may be most of the text. */
    if (!show_loss(r->documents, "documents")) show_loss(r->bytes, "bytes");
    show_stages(r);
    return show_lengths(o, r, err);
}
