/*
 * One batch of documents, stage by stage.
 *
 * One thread reads. All of them clean, judge and hash, a document at a time, in any order; one goes
 * through the documents in their order and says who is a duplicate, and which part the rest belong
 * to. Encoding is shared out again, writing is not: no byte depends on the threads.
 */
#include "10_full_model/data/prepare_internal.h"

#include "10_full_model/data/normalise.h"
#include "common/core/memory.h"

#include "common/core/rng.h"
#include "common/program/progress.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t SPLIT_STREAM = 5ull << 61; /* no operation's, no epoch's */

/* Adds the time since `before` to a stage; returns now. */
static double clocked(Worker *worker, Stage stage, double before) {
    double now = seconds_now();
    worker->seconds[stage] += now - before;
    return now;
}

int prepare_batch_fill(Preparation *p, size_t end, Error *err) {
    double before = seconds_now();
    size_t bytes = 0;
    int more = 1;
    p->count = 0;
    while (bytes < BATCH_BYTES && p->count < BATCH_DOCUMENTS &&
           documents_position(&p->reader) < end) {
        Document *d = &p->documents[p->count];
        *d = (Document){.outcome = OPEN};
        if ((more = documents_next(&p->reader, &d->piece, err)) != 1) break;
        bytes += d->piece.bytes;
        p->count++;
    }
    p->report->stage_bytes[STAGE_READ] += (double)bytes;
    clocked(&p->workers[0], STAGE_READ, before);
    return more < 0 ? -1 : p->count > 0;
}

static void clean(const Preparation *p, Document *d, Worker *worker) {
    double before = seconds_now();
    DocumentText text;
    if (document_text(&p->reader, &d->piece, &text, NULL)) {
        d->outcome = OUTCOME_BAD_LINE;
    } else {
        size_t need = 3 * text.bytes + 1;
        if (need > worker->room_bytes) {
            free(worker->room);
            worker->room = must_alloc(need, 1);
            worker->room_bytes = need;
        }
        Normalised n = normalise(text.text, text.bytes, p->options->documents.marker, worker->room);
        d->text = must_realloc(NULL, n.bytes + 1, 1); /* not cleared */
        memcpy(d->text, worker->room, n.bytes + 1);
        d->bytes = n.bytes;
        d->replaced = n.replaced + text.replaced;
        d->hash = hash128(d->text, d->bytes, 0);
        if (d->replaced && p->options->drop_invalid)
            d->outcome = OUTCOME_INVALID;
        else if (!n.bytes)
            d->outcome = OUTCOME_EMPTY;
        document_text_free(&text);
    }
    clocked(worker, STAGE_NORMALISE, before);
}

static void judge(const Preparation *p, Document *d, Worker *worker) {
    const PrepareOptions *o = p->options;
    double values[QUALITY_RULES], now = seconds_now();
    quality_measure(d->text, d->bytes, &worker->scratch, values);
    int rule = quality_judge(&o->limits, values);
    if (rule >= 0) d->outcome = OUTCOME_RULE + rule;
    now = clocked(worker, STAGE_JUDGE, now);
    if (rule >= 0 || o->near <= 0) return;
    d->signature = must_alloc((size_t)(o->bands * o->rows), sizeof *d->signature);
    minhash_signature(&p->duplicates.minhash, d->text, d->bytes, d->signature);
    clocked(worker, STAGE_SIGN, now);
}

typedef void (*DocumentFunction)(const Preparation *p, Document *d, Worker *worker);

static void for_each_open(Preparation *p, DocumentFunction function) {
#pragma omp parallel for schedule(dynamic, 8) num_threads(p->worker_count)
    for (size_t i = 0; i < p->count; i++)
        if (p->documents[i].outcome == OPEN)
            function(p, &p->documents[i], &p->workers[omp_get_thread_num()]);
}

static int part_of(const PrepareOptions *o, const Document *d) {
    if (o->held_out_count)
        return d->piece.file < o->path_count ? OUTCOME_TRAIN : OUTCOME_VALIDATION;
    Philox random = philox(o->seed, SPLIT_STREAM, d->hash.low);
    double uniform = (double)((uint64_t)random.word[0] << 32 | random.word[1]) * 0x1p-64;
    return uniform < o->validation ? OUTCOME_VALIDATION : OUTCOME_TRAIN;
}

int prepare_batch_bad_lines(Preparation *p, Error *err) {
    for (size_t i = 0; i < p->count; i++) {
        Error why;
        if (p->documents[i].outcome != OUTCOME_BAD_LINE) continue;
        document_text(&p->reader, &p->documents[i].piece, &(DocumentText){0}, &why);
        if (!p->options->skip_bad_lines)
            return error_set(err, "%s. --bad-lines skip leaves such lines out", why.text);
        if (!p->report->first_bad_line[0])
            snprintf(p->report->first_bad_line, sizeof p->report->first_bad_line, "%s", why.text);
    }
    return 0;
}

/* From pieces to outcomes: which documents of the batch stay, and in which part. */
void prepare_batch_sift(Preparation *p) {
    const PrepareOptions *o = p->options;
    for_each_open(p, clean);
    double before = seconds_now();
    for (size_t i = 0; i < p->count && o->exact; i++) {
        Document *d = &p->documents[i];
        if (d->outcome == OPEN && duplicates_exact(&p->duplicates, d->hash))
            d->outcome = OUTCOME_EXACT;
    }
    clocked(&p->workers[0], STAGE_EXACT, before);
    for_each_open(p, judge);
    before = seconds_now();
    for (size_t i = 0; i < p->count; i++) {
        Document *d = &p->documents[i];
        if (d->outcome != OPEN) continue;
        if (d->signature && duplicates_near(&p->duplicates, d->signature) >= 0)
            d->outcome = OUTCOME_NEAR;
        else
            d->outcome = part_of(o, d);
    }
    clocked(&p->workers[0], STAGE_NEAR, before);
}

void prepare_batch_free(Preparation *p) {
    for (size_t i = 0; i < p->count; i++) {
        free(p->documents[i].text);
        free(p->documents[i].signature);
    }
    p->count = 0;
}

bool prepare_is_kept(const Document *d) {
    return d->outcome == OUTCOME_TRAIN || d->outcome == OUTCOME_VALIDATION;
}

void prepare_batch_count(Preparation *p) {
    PrepareReport *r = p->report;
    for (size_t i = 0; i < p->count; i++) {
        const Document *d = &p->documents[i];
        bool exact = d->outcome == OUTCOME_EXACT;
        r->documents[d->outcome]++;
        r->bytes[d->outcome] += (int64_t)d->piece.bytes;
        r->replaced += (int64_t)d->replaced;
        r->stage_bytes[STAGE_NORMALISE] += (double)d->piece.bytes;
        r->stage_bytes[STAGE_EXACT] += (double)d->bytes;
        if (!exact && d->outcome > OUTCOME_EMPTY) r->stage_bytes[STAGE_JUDGE] += (double)d->bytes;
        if (prepare_is_kept(d)) r->stage_bytes[STAGE_JUDGE] += (double)d->bytes;
        if (d->signature) r->stage_bytes[STAGE_SIGN] += (double)d->bytes;
        if (d->signature) r->stage_bytes[STAGE_NEAR] += (double)d->bytes;
        if (prepare_is_kept(d)) r->stage_bytes[STAGE_ENCODE] += (double)d->bytes;
        if (prepare_is_kept(d)) r->stage_bytes[STAGE_WRITE] += (double)d->bytes;
    }
}

/* ---- tokens ---- */

typedef struct Block {
    size_t first, end; /* documents of the batch; those that are not kept are passed over */
    int32_t *ids;      /* each document's, then the end-of-text token */
    size_t count;
} Block;

char *prepare_batch_join(const Preparation *p, size_t from, size_t to,
                         bool (*is_wanted)(const Document *), size_t *bytes) {
    const char *marker = p->options->documents.marker;
    size_t marker_bytes = strlen(marker);
    *bytes = 0;
    for (size_t i = from; i < to; i++)
        if (is_wanted(&p->documents[i])) *bytes += p->documents[i].bytes + marker_bytes;
    char *text = must_alloc(*bytes + 1, 1), *end = text;
    for (size_t i = from; i < to; i++) {
        const Document *d = &p->documents[i];
        if (!is_wanted(d)) continue;
        memcpy(end, d->text, d->bytes);
        end += d->bytes;
        memcpy(end, marker, marker_bytes);
        end += marker_bytes;
    }
    return text;
}

/* Cuts the batch into blocks by its texts' sizes alone, so that the cut is the same for any
 * number of threads. */
static size_t cut_into_blocks(const Preparation *p, Block *blocks) {
    size_t count = 0, first = 0, bytes = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (prepare_is_kept(&p->documents[i])) bytes += p->documents[i].bytes;
        if (bytes < BLOCK_BYTES && i + 1 < p->count) continue;
        blocks[count++] = (Block){.first = first, .end = i + 1};
        first = i + 1;
        bytes = 0;
    }
    return count;
}

static int write_block(Preparation *p, const Block *block, Error *err) {
    size_t start = 0, i = block->first;
    for (size_t at = 0; at < block->count; at++) {
        if (block->ids[at] != p->end_of_text) continue;
        while (i < block->end && !prepare_is_kept(&p->documents[i])) i++;
        if (i == block->end) break; /* more ends than documents */
        const Document *d = &p->documents[i++];
        size_t length = at + 1 - start;
        ShardWriter *w = &p->writers[d->outcome == OUTCOME_VALIDATION];
        if (shard_write(w, block->ids + start, length, (int64_t)d->bytes, err)) return -1;
        int bin = 63 - __builtin_clzll(length);
        p->report->lengths[bin < LENGTH_BINS ? bin : LENGTH_BINS - 1]++;
        start = at + 1;
    }
    while (i < block->end && !prepare_is_kept(&p->documents[i])) i++;
    if (start == block->count && i == block->end) return 0;
    return error_set(err,
                     "'%s' does not end every document for this tokenizer; --end-of-text "
                     "must name one of its added tokens",
                     p->options->documents.marker);
}

int prepare_batch_write(Preparation *p, Error *err) {
    size_t most = p->count ? p->count : 1;
    Block *blocks = must_alloc(most, sizeof *blocks);
    size_t count = cut_into_blocks(p, blocks);
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->worker_count)
    for (size_t b = 0; b < count; b++) {
        double before = seconds_now();
        size_t bytes;
        char *text = prepare_batch_join(p, blocks[b].first, blocks[b].end, prepare_is_kept, &bytes);
        blocks[b].ids = tokenizer_encode(p->tokenizer, text, bytes, &blocks[b].count);
        free(text);
        clocked(&p->workers[omp_get_thread_num()], STAGE_ENCODE, before);
    }
    double before = seconds_now();
    int status = 0;
    for (size_t b = 0; b < count; b++) {
        if (!status) status = write_block(p, &blocks[b], err);
        free(blocks[b].ids);
    }
    free(blocks);
    clocked(&p->workers[0], STAGE_WRITE, before);
    return status;
}
