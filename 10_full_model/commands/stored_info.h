/*
 * What a model's files hold: how its weights are stored, how many bytes each way takes, and which
 * of those that could be quantised are not.
 */
#ifndef STORED_INFO_H
#define STORED_INFO_H

#include "10_full_model/model/config.h"

/* Prints it for a folder with weights, whose config.json says cfg; nothing where there are none. -1
 * and a message if they cannot be read. */
int stored_info_print(const ModelConfig *cfg, const char *directory, Error *err);

#endif
