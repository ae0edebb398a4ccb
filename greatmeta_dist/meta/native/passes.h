/* A user's rows, forward and backward through its layers. Shapes as in `row_layers.h`; n rows that
   the user has. */

/* One user's part of it all. */
typedef struct {
    int64_t n, depth, activation, loss, columns, shared_columns;
    const int64_t *width;
    const real *x, *shared, *kernel_x, *kernel_shared, *label, *row_weight, *logit, *film;
    real *weight[MOST_HIDDEN], *bias[MOST_HIDDEN];
    real *output, *output_bias, *kernel, *kernel_of_shared;
    real *z[MOST_HIDDEN], *h[MOST_HIDDEN], *delta[MOST_HIDDEN], *delta_sum[MOST_HIDDEN];
    real *prediction, *d_prediction, *d_film;
    real d_total;
} P(user);

#define user_part(tensor, index, size) ((tensor) ? (real *)(tensor) + (index) * (size) : NULL)

/* What of the sets and layers is the user's: entry `at` of the sets, `index` of the batch. */
static P(user) P(user_of)(const Call *call, const Sets *sets, const Layers *layers, int64_t at,
                          int64_t index)
{
    const int64_t r = sets->num_rows, c = call->num_columns, k = call->num_shared;
    const int64_t own = layers->is_own ? index : 0;
    int64_t film_width = 0, in = 0;
    P(user) u = {.n = r, .depth = call->num_hidden, .activation = call->activation,
                 .loss = call->loss, .columns = c, .shared_columns = k, .width = call->width};
    u.x = user_part(sets->rows, at, r * c);
    u.shared = user_part(sets->shared, at, k);
    u.kernel_x = user_part(sets->kernel_rows, at, r * c);
    u.kernel_shared = user_part(sets->kernel_shared, at, k);
    u.label = user_part(sets->label, at, r);
    u.row_weight = user_part(sets->row_weight, at, r);
    u.logit = user_part(sets->logit, at, r);
    for (int64_t l = 0; l < u.depth; l++) {
        u.weight[l] = user_part(layers->weight[l], own, u.width[l] * in);
        u.bias[l] = user_part(layers->bias[l], own, u.width[l]);
        in = u.width[l];
        film_width += 2 * in;
    }
    u.output = user_part(layers->output, own, in);
    u.output_bias = user_part(layers->output_bias, own, 1);
    u.kernel = user_part(layers->kernel, own, c);
    u.kernel_of_shared = user_part(layers->kernel_shared, own, k);
    u.film = user_part(sets->film, index, film_width);
    u.d_film = user_part(sets->d_film, index, film_width);
    return u;
}

/* How many of r rows are a user's: padding weighs 0. */
static int64_t P(count_rows)(const real *row_weight, int64_t r)
{
    while (r > 0 && row_weight[r - 1] == 0)
        r--;
    return r;
}

static real *P(take)(real **scratch, int64_t count)
{
    real *taken = *scratch;
    *scratch += (count + LANES - 1) / LANES * LANES;
    return taken;
}

/* Every row of to [n, width] is `row`. */
static void P(repeat)(real *to, const real *row, int64_t n, int64_t width)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * width, row, width * sizeof(real));
}

/* z [n, h_1] of a first layer that is the user's own: weights [h_1, k] of shared columns, [h_1, c]
   of the others, bias [h_1]. */
static void P(own_first_layer)(const P(user) *u, const real *weight_shared, const real *weight,
                               const real *bias, real *free)
{
    const int64_t h = u->width[0], c = u->columns, k = u->shared_columns;
    real *common = P(take)(&free, h);
    for (int64_t j = 0; j < h; j++)
        common[j] = bias[j] + P(dot)(weight_shared + j * k, u->shared, k);
    P(repeat)(u->z[0], common, u->n, h);
    P(transpose)(free, h, weight, h, c);
    P(add_product)(u->z[0], h, (P(matrix)){u->x, c, 1}, free, h, u->n, h, c, 1);
}

/* h [n, width] from z [n, width]: the activation of shift + scale z. */
INLINE void P(modulate)(int64_t activation, real *h, const real *z, const real *scale,
                        const real *shift, int64_t n, int64_t width)
{
    for (int64_t j = 0; j < width; j += LANES) {
        int64_t left = width - j;
        vector scale_j = {0}, shift_j = {0};
        if (scale) {
            scale_j = P(load)(scale + j, left);
            shift_j = P(load)(shift + j, left);
        }
        for (int64_t i = 0; i < n; i++) {
            vector values = P(load)(z + i * width + j, left);
            if (scale)
                values = shift_j + scale_j * values;
            P(store)(h + i * width + j, P(activate)(activation, values), left);
        }
    }
}

/* The way back: d [n, width] from dL/dh to dL/dz, and their sum; dL/dscale and dL/dshift. */
INLINE void P(through_modulation)(int64_t activation, real *d, const real *h, const real *z,
                                  const real *scale, real *d_scale, real *d_shift, real *d_sum,
                                  int64_t n, int64_t width)
{
    for (int64_t j = 0; j < width; j += LANES) {
        int64_t left = width - j;
        vector scale_j = {0}, of_scale = {0}, of_shift = {0}, sum = {0};
        if (scale)
            scale_j = P(load)(scale + j, left);
        for (int64_t i = 0; i < n; i++) {
            int64_t at = i * width + j;
            vector d_ij = P(through_activation)(activation, P(load)(d + at, left),
                                                P(load)(h + at, left));
            if (scale) {
                of_scale += d_ij * P(load)(z + at, left);
                of_shift += d_ij;
                d_ij *= scale_j;
            }
            sum += d_ij;
            P(store)(d + at, d_ij, left);
        }
        P(store)(d_sum + j, sum, left);
        if (scale) {
            P(store)(d_scale + j, of_scale, left);
            P(store)(d_shift + j, of_shift, left);
        }
    }
}

/* From z of the first layer to the predictions and the loss's gradient by them. */
static void P(forward)(P(user) *u, real *free)
{
    const int64_t n = u->n, c = u->columns, last = u->width[u->depth - 1];
    const real *film = u->film, *h = NULL;
    for (int64_t l = 0; l < u->depth; l++) {
        const int64_t width = u->width[l];
        if (l > 0) {
            const int64_t in = u->width[l - 1];
            P(transpose)(free, width, u->weight[l], width, in);
            P(repeat)(u->z[l], u->bias[l], n, width);
            P(add_product)(u->z[l], width, (P(matrix)){h, in, 1}, free, width, n, width, in, 1);
        }
        P(modulate)(u->activation, u->h[l], u->z[l], film, film ? film + width : NULL, n, width);
        film += film ? 2 * width : 0;
        h = u->h[l];
    }
    real common = *u->output_bias;
    if (u->kernel_x)
        common += P(dot)(u->kernel_of_shared, u->kernel_shared, u->shared_columns);
    u->d_total = 0;
    for (int64_t i = 0; i < n; i++) {
        real prediction = common + P(dot)(u->output, h + i * last, last);
        if (u->kernel_x)
            prediction += P(dot)(u->kernel, u->kernel_x + i * c, c);
        u->prediction[i] = prediction;
        if (u->loss == LOSS_MSE)
            u->d_prediction[i] = (prediction - u->label[i]) * (2 * u->row_weight[i]);
        else
            u->d_prediction[i] =
                (P(sigmoid)(prediction + (u->logit ? u->logit[i] : 0)) - u->label[i]) *
                u->row_weight[i];
        u->d_total += u->d_prediction[i];
    }
}

/* dL/dz of every hidden layer, and dL/dfilm. */
static void P(backward)(P(user) *u)
{
    const int64_t n = u->n, last = u->width[u->depth - 1];
    real *d = u->delta[u->depth - 1];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < last; j += LANES)
            P(store)(d + i * last + j, u->d_prediction[i] * P(load)(u->output + j, last - j),
                     last - j);
    int64_t film_width = 0;
    for (int64_t l = 0; l < u->depth; l++)
        film_width += 2 * u->width[l];
    for (int64_t l = u->depth - 1; l >= 0; l--) {
        const int64_t width = u->width[l];
        film_width -= 2 * width;
        const real *scale = u->film ? u->film + film_width : NULL;
        real *d_scale = u->film ? u->d_film + film_width : NULL;
        P(through_modulation)(u->activation, u->delta[l], u->h[l], u->z[l], scale, d_scale,
                              u->film ? d_scale + width : NULL, u->delta_sum[l], n, width);
        if (l == 0)
            break;
        const int64_t in = u->width[l - 1];
        memset(u->delta[l - 1], 0, n * in * sizeof(real));
        P(add_product)(u->delta[l - 1], in, (P(matrix)){u->delta[l], width, 1}, u->weight[l], in, n,
                       in, width, 1);
    }
}
