/*
 * Exercise 06.1: predict the cost.
 *
 * A model of 12 layers, width 768, 32,000 tokens; its head is a matrix of its own. One module
 * stands behind it. Predict, with a pencil:
 *
 *   own             numbers that the module has beside its block's: eh_proj and three norms
 *   again           numbers of the model that a token is multiplied with once more because of the
 *                   module
 *   with_target     rows that have a target at depth 3, in 24 windows of 40 tokens of one document
 *   loss            lambda 0.2, three modules with the losses 2, 3 and 4: what they add to the loss
 *
 * POINTS: 1
 */
extern const long long own, again, with_target;
extern const double loss;

const long long own = 0;
const long long again = 0;
const long long with_target = 0;
const double loss = 0;
