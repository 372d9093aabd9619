/*
 * The order of the work, and the folder it goes into.
 *
 * The folder is locked and what it holds is checked; a tokenizer is loaded, or learned from a
 * sample that has gone through the same sieve; then one pass over all files, batch by batch
 * (prepare_batch.c), into two rows of shards. All of it is written into a folder inside, and takes
 * its place when it is whole (common/files/replacement.h): old shards stay until then.
 */
#include "10_full_model/data/prepare_internal.h"

#include "common/core/memory.h"
#include "common/files/replacement.h"
#include "common/program/progress.h"
#include "common/text/tokenizer_folder.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAMPLE_SLICES = 64 };

PrepareOptions prepare_defaults(void) {
    return (PrepareOptions){.documents = documents_defaults(),
                            .limits = quality_defaults(),
                            .exact = true,
                            .near = 0.8,
                            .bands = 16,
                            .rows = 8,
                            .shingle = 5,
                            .validation = 0.05,
                            .seed = 1,
                            .vocab = 2048,
                            .sample_bytes = 16 << 20,
                            .shard_tokens = 64 << 20};
}

/* ---- the tokenizer ---- */

static void merges_progress(void *user, int done, int wanted) {
    (void)wanted;
    if (user) progress_update(user, done, "merges");
}

static bool is_for_training(const Document *d) { return d->outcome == OUTCOME_TRAIN; }

/*
 * Text to learn from, out of slices spread over all files, through the same sieve as the text
 * itself and without what falls to validation. Where only slices are read, bad lines are left to
 * the main pass, which knows their numbers.
 */
static char *sample_text(Preparation *p, size_t *bytes, Error *err) {
    const PrepareOptions *o = p->options;
    size_t total = p->reader.total, room = 0, wanted = o->sample_bytes;
    size_t slices = total <= wanted ? 1 : SAMPLE_SLICES;
    char *text = NULL;
    *bytes = 0;
    for (size_t s = 0; s < slices; s++) {
        size_t start = total / slices * s, end = start + (slices == 1 ? total : wanted / slices);
        documents_seek(&p->reader, start);
        int more;
        while ((more = prepare_batch_fill(p, end, err)) == 1) {
            prepare_batch_sift(p);
            prepare_batch_count(p);
            if (slices == 1 && prepare_batch_bad_lines(p, err)) more = -1;
            size_t length;
            char *kept = prepare_batch_join(p, 0, p->count, is_for_training, &length);
            if (*bytes + length > room) text = must_realloc(text, room = 2 * (*bytes + length), 1);
            if (length) memcpy(text + *bytes, kept, length);
            *bytes += length;
            free(kept);
            prepare_batch_free(p);
            if (more < 0) break;
        }
        if (more < 0) {
            free(text);
            return NULL;
        }
    }
    if (!*bytes) prepare_report_nothing(p->report, "the sample for the tokenizer", err);
    return text;
}

static void duplicates_reset(Preparation *p) {
    const PrepareOptions *o = p->options;
    duplicates_free(&p->duplicates);
    duplicates_init(&p->duplicates, o->near, o->bands, o->rows, o->shingle);
}

static int learn_tokenizer(Preparation *p, Error *err) {
    const PrepareOptions *o = p->options;
    PrepareReport *report = p->report, of_sample = {0};
    double before = seconds_now();
    size_t bytes;
    p->report = &of_sample;
    duplicates_reset(p);
    char *text = sample_text(p, &bytes, err);
    p->report = report;
    if (!text) return -1;
    Progress progress = progress_start("tokenizer", o->vocab - 257);
    p->tokenizer =
        tokenizer_train(text, bytes, o->vocab, merges_progress, o->quiet ? NULL : &progress, err);
    free(text);
    if (!p->tokenizer) return error_prefix(err, "learning a tokenizer: ");
    if (!o->quiet)
        progress_finish(&progress, "%d tokens, from %.1f MB", tokenizer_vocab_size(p->tokenizer),
                        (double)bytes / 1e6);
    report->tokenizer_seconds = seconds_now() - before;
    /* The main pass begins anew, and its times are its own. */
    documents_seek(&p->reader, 0);
    for (int i = 0; i < p->worker_count; i++)
        memset(p->workers[i].seconds, 0, sizeof p->workers[i].seconds);
    return 0;
}

static int load_tokenizer(Preparation *p, Error *err) {
    const PrepareOptions *o = p->options;
    struct stat info;
    bool folder = stat(o->tokenizer, &info) == 0 && S_ISDIR(info.st_mode);
    p->tokenizer =
        folder ? tokenizer_load_folder(o->tokenizer, err) : tokenizer_load(o->tokenizer, err);
    return p->tokenizer ? 0 : -1;
}

/* What stands between documents: as the user says, or as a given tokenizer's folder does. */
static void choose_marker(const Preparation *p, PrepareOptions *o) {
    size_t bytes;
    int end = p->tokenizer ? tokenizer_eot(p->tokenizer) : -1;
    const char *text = end >= 0 ? tokenizer_token(p->tokenizer, end, &bytes) : "";
    if (*text) o->documents.marker = text;
    if (o->end_of_text) o->documents.marker = o->end_of_text;
}

/* The end-of-text token is what the marker encodes to, alone. */
static int find_end_of_text(Preparation *p, Error *err) {
    const char *marker = p->options->documents.marker;
    size_t count;
    int32_t *ids = tokenizer_encode(p->tokenizer, marker, strlen(marker), &count);
    p->end_of_text = count == 1 ? ids[0] : -1;
    free(ids);
    if (count == 1) return 0;
    return error_set(err,
                     "the tokenizer has no token '%s' to end a document with; name the one it has "
                     "by --end-of-text",
                     marker);
}

/* ---- the folder ---- */

/* A folder that is finished is left alone: the message says what is different now. */
static int check_folder(const PrepareOptions *o, Error *err) {
    PathText path = file_path(o->out, SHARD_INDEX);
    if (o->overwrite || access(path.text, F_OK)) return 0;
    cJSON *index = json_load(path.text, NULL), *now = prepare_settings(o);
    const cJSON *then = cJSON_GetObjectItemCaseSensitive(index, "settings"), *item;
    const char *different = NULL;
    cJSON_ArrayForEach(item, now) {
        const cJSON *old = cJSON_GetObjectItemCaseSensitive(then, item->string);
        if (!different && !cJSON_Compare(old, item, 1)) different = item->string;
    }
    error_set(err,
              "%s holds finished shards already, made with %s%s%s. Give another folder, or "
              "--overwrite to make them anew",
              o->out, different ? "another setting of \"" : "the same settings",
              different ? different : "", different ? "\"" : "");
    cJSON_Delete(index);
    cJSON_Delete(now);
    return -1;
}

static int save_index(Preparation *p, cJSON *const parts[SHARD_PARTS], Error *err) {
    const PrepareOptions *o = p->options;
    MappedFile file;
    if (file_map(&file, file_path(p->folder, "tokenizer.json").text, err)) return -1;
    HashText hash = hash128_text(hash128(file.data, file.size, 0));
    file_unmap(&file);
    cJSON *index = cJSON_CreateObject();
    cJSON_AddStringToObject(index, "format", "deepseek shards");
    cJSON_AddNumberToObject(index, "version", 1);
    cJSON_AddNumberToObject(index, "vocab_size", tokenizer_vocab_size(p->tokenizer));
    cJSON_AddNumberToObject(index, "end_of_text", p->end_of_text);
    cJSON_AddStringToObject(index, "tokenizer_hash", hash.text);
    cJSON_AddItemToObject(index, "settings", prepare_settings(o));
    for (int part = 0; part < SHARD_PARTS; part++)
        cJSON_AddItemReferenceToObject(index, shard_part_names[part], parts[part]);
    int status = json_save(file_path(p->folder, SHARD_INDEX).text, index, err);
    cJSON_Delete(index);
    return status;
}

/* ---- all of it ---- */

static int pass(Preparation *p, Error *err) {
    PrepareReport *r = p->report;
    Progress progress = progress_start("preparing", (int64_t)p->reader.total);
    int more;
    duplicates_reset(p);
    while ((more = prepare_batch_fill(p, p->reader.total, err)) == 1) {
        prepare_batch_sift(p);
        int status = prepare_batch_bad_lines(p, err);
        prepare_batch_count(p);
        if (!status) status = prepare_batch_write(p, err);
        prepare_batch_free(p);
        if (status) return -1;
        documents_release(&p->reader);
        if (!p->options->quiet)
            progress_update(
                &progress, (int64_t)documents_position(&p->reader), "%lld documents kept",
                (long long)(r->documents[OUTCOME_TRAIN] + r->documents[OUTCOME_VALIDATION]));
    }
    if (more < 0) return -1;
    if (!p->options->quiet) progress_finish(&progress, NULL);
    if (r->documents[OUTCOME_TRAIN] + r->documents[OUTCOME_VALIDATION] == 0)
        return prepare_report_nothing(r, "the input", err);
    return 0;
}

static int finish(Preparation *p, double started, Error *err) {
    PrepareReport *r = p->report;
    cJSON *parts[SHARD_PARTS] = {0};
    int status = 0;
    for (int part = 0; part < SHARD_PARTS && !status; part++) {
        ShardWriter *w = &p->writers[part];
        parts[part] = shard_writer_finish(w, err);
        if (!parts[part]) status = -1;
        r->tokens[part] = w->total_tokens;
        r->text_bytes[part] = w->total_bytes;
        r->shards[part] = w->count;
    }
    for (int stage = 0; stage < STAGES; stage++)
        for (int i = 0; i < p->worker_count; i++)
            r->core_seconds[stage] += p->workers[i].seconds[stage];
    r->memory_bytes = duplicates_bytes(&p->duplicates);
    r->seconds = seconds_now() - started;
    cJSON *report = prepare_report_json(p->options, r);
    if (!status) status = json_save(file_path(p->folder, "report.json").text, report, err);
    cJSON_Delete(report);
    if (!status) status = save_index(p, parts, err);
    for (int part = 0; part < SHARD_PARTS; part++) cJSON_Delete(parts[part]);
    return status;
}

static int write_shards(Preparation *p, double started, Error *err) {
    const PrepareOptions *o = p->options;
    if (tokenizer_save(p->tokenizer, file_path(p->folder, "tokenizer.json").text, err)) return -1;
    p->report->vocab_size = tokenizer_vocab_size(p->tokenizer);
    for (int part = 0; part < SHARD_PARTS; part++)
        shard_writer_init(&p->writers[part], p->folder, (ShardPart)part, p->report->vocab_size,
                          o->shard_tokens);
    int status = pass(p, err);
    if (!status) status = finish(p, started, err);
    for (int part = 0; part < SHARD_PARTS; part++) shard_writer_free(&p->writers[part], status);
    return status;
}

static int prepare_in(Preparation *p, Error *err) {
    const PrepareOptions *o = p->options;
    double started = seconds_now();
    Replacement r;
    if (check_folder(o, err)) return -1;
    if (!o->tokenizer && learn_tokenizer(p, err)) return -1;
    if (find_end_of_text(p, err) || replacement_open(&r, o->out, err)) return -1;
    p->folder = r.staging;
    int status = write_shards(p, started, err);
    if (!status) status = replacement_commit(&r, shards_owns, err);
    replacement_abandon(&r);
    return status;
}

int prepare_run(const PrepareOptions *options, PrepareReport *report, Error *err) {
    PrepareOptions o = *options;
    Preparation p = {.options = &o, .report = report, .worker_count = omp_get_max_threads()};
    *report = (PrepareReport){0};
    if (strlen(o.out) > 350) return error_set(err, "the path %.80s... is too long", o.out);
    if (o.tokenizer && load_tokenizer(&p, err)) return -1;
    choose_marker(&p, &o);
    size_t first = (size_t)o.path_count, all = first + (size_t)o.held_out_count;
    const char **paths = must_alloc(all, sizeof *paths);
    for (size_t i = 0; i < all; i++) paths[i] = i < first ? o.paths[i] : o.held_out[i - first];
    if (documents_open(&p.reader, paths, (int)all, &o.documents, err)) {
        tokenizer_free(p.tokenizer);
        free(paths);
        return -1;
    }
    report->input_bytes = (int64_t)p.reader.total;
    int lock = make_directories(o.out, err) ? -1 : folder_lock(o.out, err);
    int status = lock < 0 ? -1 : 0;
    if (!status) replacement_clear(o.out, shards_owns);
    p.documents = must_alloc(BATCH_DOCUMENTS, sizeof *p.documents);
    p.workers = must_alloc((size_t)p.worker_count, sizeof *p.workers);
    if (!status) status = prepare_in(&p, err);
    prepare_batch_free(&p);
    for (int i = 0; i < p.worker_count; i++) {
        quality_scratch_free(&p.workers[i].scratch);
        free(p.workers[i].room);
    }
    free(p.workers);
    free(p.documents);
    duplicates_free(&p.duplicates);
    tokenizer_free(p.tokenizer);
    documents_close(&p.reader);
    free(paths);
    if (lock >= 0) close(lock);
    return status;
}
