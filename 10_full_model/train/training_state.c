/*
 * A listing of all tensors under their names is written, or looked for, one by one. Loading goes
 * through the file twice: first it only checks.
 */
#include "10_full_model/train/training_state.h"

#include "10_full_model/model/config_table.h"
#include "common/files/machine.h"
#include "common/files/safetensors.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const FORMAT = "2"; /* of this file; another one is refused */

/* ---- settings ---- */

static void add_setting(Settings *settings, const char *name, const char *format, ...) {
    enum { MOST = sizeof settings->list / sizeof settings->list[0] };
    CHECK(settings->count < MOST, "more than %d settings", (int)MOST);
    Setting *s = &settings->list[settings->count++];
    snprintf(s->name, sizeof s->name, "%s", name);
    va_list args;
    va_start(args, format);
    vsnprintf(s->value, sizeof s->value, format, args);
    va_end(args);
}

void settings_integer(Settings *settings, const char *name, int64_t value) {
    add_setting(settings, name, "%lld", (long long)value);
}

void settings_number(Settings *settings, const char *name, double value) {
    char text[32];
    add_setting(settings, name, "%s", format_number(text, sizeof text, value));
}

void settings_text(Settings *settings, const char *name, const char *value) {
    add_setting(settings, name, "%s", value);
}

void settings_of_model(Settings *settings, const ModelConfig *cfg) {
    const ConfigKey *key;
    for (int i = 0; (key = config_key(i)); i++)
        if (key->setting && config_key_applies(key, cfg))
            settings_text(settings, key->key, config_key_text(key, config_key_get(key, cfg)).text);
}

static void metadata_key(char *key, size_t size, const Setting *s) {
    snprintf(key, size, "setting.%s", s->name);
}

/* ---- the schedule, as the flags that give it ---- */

enum { SCHEDULE_TEXT = 200, REWARDS_TEXT = 200 };

static void schedule_write(char text[SCHEDULE_TEXT], const Schedule *s) {
    char peak[32], floor[32];
    format_number(peak, sizeof peak, s->peak), format_number(floor, sizeof floor, s->floor);
    snprintf(text, SCHEDULE_TEXT,
             "--steps %lld --warmup %lld --constant %lld --learning-rate %s --lowest-rate %s",
             (long long)s->steps, (long long)s->warmup, (long long)s->constant, peak, floor);
}

static bool schedule_read(const char *text, Schedule *s) {
    long long steps, warmup, constant;
    if (!text || sscanf(text,
                        "--steps %lld --warmup %lld --constant %lld --learning-rate %f "
                        "--lowest-rate %f",
                        &steps, &warmup, &constant, &s->peak, &s->floor) != 5)
        return false;
    s->steps = steps, s->warmup = warmup, s->constant = constant;
    return true;
}

int settings_agree(Comm *comm, const Settings *settings, const Schedule *schedule, const char *how,
                   Error *err) {
    char text[SCHEDULE_TEXT];
    schedule_write(text, schedule);
    if (comm_same(comm, "program", commit_describe().text, err) ||
        comm_same(comm, "schedule", text, err) || comm_same(comm, "way of sharing", how, err))
        return -1;
    for (int i = 0; i < settings->count; i++) {
        char line[sizeof(Setting) + 2];
        snprintf(line, sizeof line, "%s %s", settings->list[i].name, settings->list[i].value);
        if (comm_same(comm, "setting", line, err)) return -1;
    }
    return comm_same(comm, "setting", "", err); /* one that has fewer ends here */
}

/* ---- what is saved of each weight ---- */

enum { PARTS = 3 }; /* weight, m, v */
static const char *const part_names[PARTS] = {"weight", "adamw.m", "adamw.v"};

/* A frozen weight has no moments. */
static int parts_of(const Tensor *t) { return t->grad ? PARTS : 1; }

/* Where a part of a weight lies, on the model's device, and what it is: F32, but for moments in
 * BF16 and for a frozen weight that has no master. */
static void *part_of(const Params *params, const Tensor *t, int part, DType *dtype) {
    float *master = params_master(params, t);
    *dtype = part ? params->moments : master ? F32 : t->dtype;
    if (part)
        return (char *)(part == 1 ? params->m : params->v) +
               dtype_bytes(*dtype, params_offset(params, t));
    return master ? master : t->data;
}

/* Tensors on the host under the file's names, and what was allocated for them. */
typedef struct Listing {
    Tensor *tensors;
    int count;
    char (*names)[256];
    void **copies; /* of what lies on a GPU */
} Listing;

static void list_add(Listing *list, Context *ctx, const char *kind, const Tensor *t, void *data,
                     DType dtype) {
    int i = list->count++;
    snprintf(list->names[i], sizeof list->names[i], "%s.%s", kind, t->name);
    list->tensors[i] = tensor_view(data, list->names[i], dtype, CPU, t->shape, t->ndim);
    if (ctx->device == CPU) return;
    size_t bytes = tensor_bytes(&list->tensors[i]);
    list->copies[i] = list->tensors[i].data = must_alloc(bytes, 1);
    device_get(ctx->gpu, list->copies[i], data, bytes);
}

static Listing list_all(Model *model, const Model *reference) {
    Params *params = &model->params;
    size_t most = (size_t)((PARTS + 1) * params->count + 2 * params->buffer_count);
    Listing list = {.tensors = must_alloc(most, sizeof(Tensor)),
                    .names = must_alloc(most, sizeof *list.names),
                    .copies = must_alloc(most, sizeof(void *))};
    for (int part = 0; part < PARTS; part++)
        for (int i = 0; i < params->count; i++) {
            DType dtype;
            const Tensor *t = params->list[i];
            if (part >= parts_of(t)) continue;
            void *data = part_of(params, t, part, &dtype);
            list_add(&list, model->ctx, part_names[part], t, data, dtype);
        }
    for (int i = 0; i < params->buffer_count; i++)
        list_add(&list, model->ctx, "buffer", params->buffers[i], params->buffers[i]->data,
                 params->buffers[i]->dtype);
    const Params *frozen = reference ? &reference->params : NULL;
    for (int i = 0; frozen && i < frozen->count; i++)
        list_add(&list, model->ctx, "reference", frozen->list[i], frozen->list[i]->data,
                 frozen->list[i]->dtype);
    for (int i = 0; frozen && i < frozen->buffer_count; i++)
        list_add(&list, model->ctx, "reference.buffer", frozen->buffers[i],
                 frozen->buffers[i]->data, frozen->buffers[i]->dtype);
    return list;
}

static void list_free(Listing *list) {
    for (int i = 0; i < list->count; i++) free(list->copies[i]);
    free(list->copies);
    free(list->names);
    free(list->tensors);
}

int64_t training_state_steps(const TrainingState *state) {
    return state->rewards ? state->rewards->grpo.steps : state->adamw.step;
}

/* The counters of a run with rewards, in one line; exact. */
static void rewards_write(char text[REWARDS_TEXT], const RewardState *r) {
    snprintf(text, REWARDS_TEXT,
             "steps %lld prompts %llu rollouts %llu tokens %lld accuracy_first %a",
             (long long)r->grpo.steps, (unsigned long long)r->grpo.prompts_drawn,
             (unsigned long long)r->grpo.rollouts_drawn, (long long)r->grpo.num_tokens,
             r->accuracy_first);
}

static bool rewards_read(const char *text, RewardState *r) {
    long long steps, tokens;
    unsigned long long prompts, rollouts;
    if (!text ||
        sscanf(text, "steps %lld prompts %llu rollouts %llu tokens %lld accuracy_first %la", &steps,
               &prompts, &rollouts, &tokens, &r->accuracy_first) != 5)
        return false;
    r->grpo = (GrpoState){steps, prompts, rollouts, tokens};
    return steps >= 0 && tokens >= 0;
}

int training_state_save(Model *model, const TrainingState *state, const Settings *settings,
                        const char *directory, Error *err) {
    enum { FIXED = 6, MOST = FIXED + 1 + sizeof settings->list / sizeof settings->list[0] };
    char path[1024], step[32], best_step[32], stream[32], best[64], keys[MOST][64];
    char schedule[SCHEDULE_TEXT], rewards[REWARDS_TEXT];
    int count = FIXED;
    snprintf(path, sizeof path, "%s/training.safetensors", directory);
    snprintf(step, sizeof step, "%lld", (long long)state->adamw.step);
    snprintf(best_step, sizeof best_step, "%lld", (long long)state->best_step);
    snprintf(stream, sizeof stream, "%llu", (unsigned long long)model->ctx->rng.stream);
    snprintf(best, sizeof best, "%a", state->best_validation_loss); /* hexadecimal: exact */
    schedule_write(schedule, &state->schedule);
    KeyValue metadata[MOST] = {
        {"training_format", FORMAT}, {"schedule", schedule},         {"step", step},
        {"rng_stream", stream},      {"best_validation_loss", best}, {"best_step", best_step}};
    if (state->rewards) {
        rewards_write(rewards, state->rewards);
        metadata[count++] = (KeyValue){"rewards", rewards};
    }
    for (int i = 0; i < settings->count; i++) {
        metadata_key(keys[i], sizeof keys[i], &settings->list[i]);
        metadata[count++] = (KeyValue){keys[i], settings->list[i].value};
    }
    Listing list = list_all(model, state->rewards ? state->rewards->reference : NULL);
    int status = safetensors_write(path, list.tensors, list.count, metadata, count, err);
    list_free(&list);
    return status;
}

/* ---- loading ---- */

static int check_settings(const SafeTensors *file, const Settings *settings, Error *err) {
    const char *format = safetensors_metadata(file, "training_format");
    if (!format || strcmp(format, FORMAT))
        return error_set(err, "%s is no training state of this program (format %s, not %s)",
                         safetensors_path(file), format ? format : "missing", FORMAT);
    for (int i = 0; i < settings->count; i++) {
        const Setting *now = &settings->list[i];
        char key[64];
        metadata_key(key, sizeof key, now);
        const char *then = safetensors_metadata(file, key);
        if (!then && !strcmp(now->value, "no")) continue; /* a flag younger than the run */
        if (!then || strcmp(then, now->value))
            return error_set(
                err,
                "%s: this run was begun with %s %s, but now it is %s; a run can only be "
                "resumed with the settings that it began with",
                safetensors_path(file), now->name, then ? then : "unknown", now->value);
    }
    return 0;
}

/* Has every finished step the learning rate that it had? */
static int check_schedule(const SafeTensors *file, const TrainingState *state,
                          const char *directory, Error *err) {
    const char *then = safetensors_metadata(file, "schedule");
    char now[SCHEDULE_TEXT];
    schedule_write(now, &state->schedule);
    Schedule old;
    if (!schedule_read(then, &old))
        return error_set(err, "%s: schedule is '%s', which is none", safetensors_path(file),
                         then ? then : "missing");
    int64_t done = training_state_steps(state);
    for (int64_t step = 0; step < done; step++) {
        float before = schedule_rate(&old, step);
        float after = schedule_rate(&state->schedule, step);
        if (before == after) continue;
        return error_set(err,
                         "%s: this run was begun with %s, but now it is %s. Step %lld of the %lld "
                         "that are done had the learning rate %g, and would have had %g. A run "
                         "goes on with another schedule while it is on the part that both share, "
                         "the warm-up and --constant; later, --from %s begins a new run from its "
                         "weights",
                         safetensors_path(file), then, now, (long long)step + 1, (long long)done,
                         before, after, directory);
    }
    return 0;
}

static int read_integer(const SafeTensors *file, const char *key, int64_t *value, Error *err) {
    const char *text = safetensors_metadata(file, key);
    char *end = NULL;
    *value = text ? strtoll(text, &end, 10) : -1;
    if (text && end != text && !*end && *value >= 0) return 0;
    return error_set(err, "%s: %s is '%s', which is no count", safetensors_path(file), key,
                     text ? text : "missing");
}

static int read_metadata(const SafeTensors *file, TrainingState *state, int64_t *stream,
                         Error *err) {
    if (read_integer(file, "step", &state->adamw.step, err) ||
        read_integer(file, "best_step", &state->best_step, err) ||
        read_integer(file, "rng_stream", stream, err))
        return -1;
    const char *best = safetensors_metadata(file, "best_validation_loss");
    char *end = NULL;
    state->best_validation_loss = best ? strtof(best, &end) : NAN;
    if (!best || end == best || *end || isnan(state->best_validation_loss))
        return error_set(err, "%s: best_validation_loss is '%s', which is no number",
                         safetensors_path(file), best ? best : "missing");
    const char *rewards = safetensors_metadata(file, "rewards");
    if (state->rewards && !rewards_read(rewards, state->rewards))
        return error_set(err, "%s: rewards is '%s', which are no counters of a run",
                         safetensors_path(file), rewards ? rewards : "missing");
    return 0;
}

/* Tensor i of the file's parts, checked; into == NULL only checks. */
static int read_tensor(const SafeTensors *file, Context *ctx, const char *kind, const Tensor *t,
                       DType dtype, void *into, Error *err) {
    char name[256];
    snprintf(name, sizeof name, "%s.%s", kind, t->name);
    const Tensor *from = safetensors_get(file, name, t->shape, t->ndim, err);
    if (!from) return -1;
    if (from->dtype != dtype)
        return error_set(err, "%s: %s is %s, but should be %s", safetensors_path(file), name,
                         dtype_name(from->dtype), dtype_name(dtype));
    if (!into) return 0;
    device_put(ctx->gpu, into, from->data, tensor_bytes(from));
    return 0;
}

static int read_reference(const SafeTensors *file, Model *reference, bool fill, Error *err) {
    const Params *p = &reference->params;
    for (int i = 0; i < p->count + p->buffer_count; i++) {
        bool weight = i < p->count;
        Tensor *t = weight ? p->list[i] : p->buffers[i - p->count];
        if (read_tensor(file, reference->ctx, weight ? "reference" : "reference.buffer", t,
                        t->dtype, fill ? t->data : NULL, err))
            return -1;
    }
    return 0;
}

static int read_tensors(const SafeTensors *file, Model *model, bool fill, Error *err) {
    Context *ctx = model->ctx;
    Params *params = &model->params;
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        for (int part = 0; part < parts_of(t); part++) {
            DType dtype;
            void *data = part_of(params, t, part, &dtype);
            if (read_tensor(file, ctx, part_names[part], t, dtype, fill ? data : NULL, err))
                return -1;
        }
        if (!fill || t->dtype == F32 || !params_master(params, t)) continue;
        /* params_set rounds the weights to the model's dtype as AdamW does. */
        char name[256];
        snprintf(name, sizeof name, "weight.%s", t->name);
        params_set(params, t, safetensors_find(file, name)->data);
    }
    for (int i = 0; i < params->buffer_count; i++) {
        Tensor *t = params->buffers[i];
        if (read_tensor(file, ctx, "buffer", t, t->dtype, fill ? t->data : NULL, err)) return -1;
    }
    return 0;
}

int training_state_load(Model *model, TrainingState *state, const Settings *settings,
                        const char *directory, Error *err) {
    char path[1024];
    snprintf(path, sizeof path, "%s/training.safetensors", directory);
    SafeTensors *file = safetensors_open(path, err);
    if (!file) return -1;
    TrainingState loaded = *state;
    RewardState rewards;
    if (state->rewards) rewards = *state->rewards, loaded.rewards = &rewards;
    Model *reference = state->rewards ? state->rewards->reference : NULL;
    int64_t stream;
    int status = check_settings(file, settings, err);
    if (!status) status = read_metadata(file, &loaded, &stream, err);
    if (!status) status = check_schedule(file, &loaded, directory, err);
    if (!status) status = read_tensors(file, model, false, err);
    if (!status && reference) status = read_reference(file, reference, false, err);
    if (!status) { /* all of it is there: from here on nothing can fail */
        read_tensors(file, model, true, err);
        if (reference) read_reference(file, reference, true, err);
        if (state->rewards) *state->rewards = rewards, loaded.rewards = state->rewards;
        model->ctx->rng.stream = (uint64_t)stream;
        *state = loaded;
    }
    safetensors_close(file);
    return status;
}
