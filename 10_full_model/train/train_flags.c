/*
 * The table of train_flags.h.
 */
#include "10_full_model/train/train_flags.h"

static const char *const stages[] = {"auto", "off", "warmup", "sparse", NULL}; /* DSA_AUTO, ... */

TrainFlags train_flags(TrainOptions *t) {
    const int64_t most = (int64_t)1 << 40; /* steps */
    Schedule *s = &t->schedule;
    return (TrainFlags){{
        OPT_HEAD("How long:"),
        OPT_INT("steps", 0, "N", &s->steps, 1, most, "Steps of AdamW"),
        OPT_INT("batch", 0, "N", &t->batch_size, 1, 65536, "Windows of text in a batch",
                .setting = true),
        OPT_INT("context", 0, "N", &t->context_length, 1, 1 << 20, "Tokens in a window",
                .setting = true),
        OPT_INT("accumulate", 0, "N", &t->accumulation, 1, 65536,
                "Batches whose gradients are added up for a step", .setting = true),
        OPT_INT("eval-every", 0, "N", &t->eval_interval, 1, 1 << 30,
                "Validate and save every N steps", .setting = true),
        OPT_INT("eval-batches", 0, "N", &t->eval_batches, 1, 1 << 20, "Batches of a validation",
                .setting = true),
        OPT_HEAD("How:"),
        OPT_FLOAT("learning-rate", 0, "X", &s->peak, 0, 1e30, "The highest"),
        OPT_FLOAT("lowest-rate", 0, "X", &s->floor, 0, 1e30,
                  "At the end (default: a tenth of the highest)"),
        OPT_INT("warmup", 0, "N", &s->warmup, 0, most,
                "Steps until the learning rate is up (default 50, of a short run a quarter)"),
        OPT_INT("constant", 0, "N", &s->constant, 0, most,
                "Steps for which it stays there; a cosine does the rest"),
        OPT_FLOAT("weight-decay", 0, "X", &t->adamw.weight_decay, 0, 100, "Of matrices",
                  .setting = true),
        OPT_FLOAT("clip", 0, "X", &t->adamw.clip, 0, 1e30, "Largest norm of the gradient; 0: any",
                  .setting = true),
        OPT_FLOAT("dropout", 0, "X", &t->dropout, 0, 0.99, "Probability", .setting = true),
        OPT_FLOAT("balance-loss", 0, "X", &t->balance_alpha, 0, 1e6,
                  "Weight of the sequence-wise balance loss", .setting = true),
        OPT_FLOAT("mtp-lambda", 0, "X", &t->mtp_lambda, 0, 100,
                  "Weight of the loss of modules for multi-token prediction, if there are any",
                  .setting = true),
        OPT_FLOAT("bias-speed", 0, "X", &t->bias_speed, 0, 1,
                  "How far a router's bias moves after a step towards an even load",
                  .setting = true),
        OPT_CHOICE("dsa", 0, "STAGE", &t->dsa, stages,
                   "Of a deepseek_v32 model, whose indexers choose what attention sees: off, they "
                   "stay as they are; warmup, attention sees all, and they alone learn what it "
                   "looks at; sparse (what auto means), they choose and go on learning",
                   .setting = true),
        OPT_FLOAT("index-loss", 0, "X", &t->index_loss, 0, 1e6, "Weight of the indexers' loss",
                  .setting = true),
        OPT_FLOAT("index-rate", 0, "X", &t->index_rate, 0, 1e6,
                  "What the learning rate is multiplied by for indexers", .setting = true),
        OPT_FLAG("fp8", 0, &t->fp8,
                 "Linear layers and experts multiply in FP8, with scales for blocks as DeepSeek-V3 "
                 "(on CUDA: Hopper and --dtype bf16; the CPU imitates it)",
                 .setting = true),
        OPT_FLAG("bf16-moments", 0, &t->bf16_moments,
                 "AdamW's two moments in BF16, as DeepSeek-V3 has them: 4 bytes a weight instead "
                 "of 8",
                 .setting = true),
        OPT_END,
    }};
}

static const char *const ways[] = {"auto", "host", "nccl", NULL}; /* COMM_AUTO, ... */

RankFlags rank_flags(RankOptions *r) {
    return (RankFlags){{
        OPT_HEAD("On several ranks (started by mpirun, srun, torchrun or `deepseek launch`):"),
        OPT_CHOICE("comm", 0, "WAY", &r->comm, ways,
                   "How a GPU's numbers travel: nccl, a GPU for each rank; host, through its "
                   "memory, and ranks may share a GPU (default: nccl where there is one)"),
        OPT_FLAG("no-overlap", 0, &r->in_turn,
                 "Add up gradients when all are there, to see what is gained by not waiting"),
        OPT_FLAG(
            "zero", 0, &r->zero,
            "Each keeps AdamW's moments and the F32 masters of a part of the weights (ZeRO-1)"),
        OPT_INT("expert-parallel", 0, "N", &r->expert_parallel, 1, 65536,
                "Spread each layer's experts over N ranks; tokens travel to them"),
        OPT_FLAG("deterministic", 0, &r->deterministic,
                 "The same bits from 1, 2, 4 and 8 ranks: gradients of 8 parts of a step, added as "
                 "a tree; memory for 3 gradients more, less on several ranks"),
        OPT_END,
    }};
}

RankFlags rank_flags_of_copies(RankOptions *r) {
    RankFlags flags = rank_flags(r);
    flags.rows[3] = (Option)OPT_END;
    return flags;
}
