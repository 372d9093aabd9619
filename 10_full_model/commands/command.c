#include "10_full_model/commands/command.h"

void command_parse(const Command *command, const struct argp_option *flags, argp_parser_t parser,
                   int argc, char **argv, CommonOptions *common, void *options) {
    struct argp argp = {flags, parser, NULL, command->about, common_argp, NULL, NULL};
    options_parse(&argp, argc, argv, common, options);
    if (common->csv && command != &command_train)
        fatal("%s writes no CSV file: leave --csv out", command->name);
}

void file_list_add(FileList *list, const struct argp_state *state, const char *flag, char *path) {
    enum { MOST = sizeof list->paths / sizeof list->paths[0] };
    if (list->count == MOST) argp_error(state, "%s: at most %d files", flag, (int)MOST);
    list->paths[list->count++] = path;
}
