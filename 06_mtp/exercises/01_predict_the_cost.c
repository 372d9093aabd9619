/*
 * Exercise 06.1: predict the cost.
 *
 * A model of 8 layers, width 512, 50,257 tokens; its head is a matrix of its own. One module stands
 * behind it, whose block has B numbers that a token is multiplied with. Predict, with a pencil:
 *
 *   own             numbers that the module has beside its block's: eh_proj and three norms
 *   again           numbers of the model that a token is multiplied with once more because of the
 *                   module
 *   with_target     rows that have a target at depth 3, in 16 windows of 64 tokens of one document
 *   loss            lambda 0.3, three modules with the losses 2, 3 and 4: what they add to the loss
 *
 * POINTS: 1
 */
extern const long long own, again, with_target;
extern const double loss;

const long long own = 0;
const long long again = 0;
const long long with_target = 0;
const double loss = 0;
