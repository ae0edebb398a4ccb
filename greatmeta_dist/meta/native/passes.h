/* A user's rows, forward and backward through its layers. Shapes as in `row_layers.h`; n rows that
   the user has. */

#define part(tensor, index, size) ((tensor) ? (real *)(tensor) + (index) * (size) : NULL)

/* A hidden layer of one user; see `Layers` and `Moved`. */
typedef struct {
    int64_t out, in, stride; /* `stride` is between rows of the shared weight */
    const real *weight, *bias;
    real *own_weight, *own_shared, *own_bias;
    real *rows, *scaled_delta;
    int64_t m; /* rows of the delta so far */
    real *z, *h, *delta, *delta_sum;
} P(layer);

/* One user's part of it all. */
typedef struct {
    int64_t n, depth, activation, loss, columns, shared_columns;
    const real *x, *shared, *kernel_x, *kernel_shared, *label, *row_weight, *logit, *film;
    P(layer) layers[MOST_HIDDEN];
    real *output, *output_bias, *kernel, *kernel_of_shared;
    real *prediction, *d_prediction, *d_film;
    real d_total;
} P(user);

/* What is the user's: entry `at` of the sets, `position` among the bucket's users, `index` among
   the batch's. */
static P(user) P(user_of)(const Call *call, const Sets *sets, const Layers *layers, int64_t at,
                          int64_t position, int64_t index)
{
    const int64_t r = sets->num_rows, c = call->num_columns, k = call->num_shared;
    const int64_t own = layers->is_own ? position : 0;
    int64_t film_width = 0, in = c;
    P(user) u = {.n = r, .depth = call->num_hidden, .activation = call->activation,
                 .loss = call->loss, .columns = c, .shared_columns = k};
    u.x = part(sets->rows, at, r * c);
    u.shared = part(sets->shared, at, k);
    u.kernel_x = part(sets->kernel_rows, at, r * c);
    u.kernel_shared = part(sets->kernel_shared, at, k);
    u.label = part(sets->label, at, r);
    u.row_weight = part(sets->row_weight, at, r);
    u.logit = part(sets->logit, at, r);
    for (int64_t l = 0; l < u.depth; l++) {
        const Moved *moved = &layers->moved[l];
        const int64_t out = call->width[l], shared = l == 0 ? k : 0;
        u.layers[l] = (P(layer)){.out = out, .in = in, .stride = in + shared};
        u.layers[l].weight = (const real *)layers->weight[l] + shared;
        u.layers[l].bias = layers->bias[l];
        u.layers[l].own_weight = part(moved->weight, position, out * in);
        u.layers[l].own_shared = part(moved->shared, position, out * shared);
        u.layers[l].own_bias = part(moved->bias, position, out);
        u.layers[l].rows = part(moved->rows, position, moved->num_rows * in);
        u.layers[l].scaled_delta = part(moved->scaled_delta, position, moved->num_rows * out);
        in = out;
        film_width += 2 * out;
    }
    u.output = part(layers->output, own, in);
    u.output_bias = part(layers->output_bias, own, 1);
    u.kernel = part(layers->kernel, own, c);
    u.kernel_of_shared = part(layers->kernel_shared, own, k);
    u.film = part(sets->film, index, film_width);
    u.d_film = part(sets->d_film, index, film_width);
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
    *scratch += P(filled_up)(count);
    return taken;
}

/* Every row of to [n, width] is `row`. */
static void P(repeat)(real *to, const real *row, int64_t n, int64_t width)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * width, row, width * sizeof(real));
}

/* z [n, out] += v W' for v [n, in] and W [out, in]: either W is turned, or v and z, whichever is
   less. */
static void P(apply_layer)(real *z, const real *v, const real *weight, int64_t n, int64_t in,
                           int64_t out, real *free)
{
    const int64_t padded = P(filled_up)(n);
    if (padded * (in + out) >= in * out) {
        P(transpose)(free, out, weight, out, in);
        P(add_product)(z, out, (P(matrix)){v, in, 1}, free, out, n, out, in, 1);
        return;
    }
    real *turned = P(take)(&free, in * padded), *result = P(take)(&free, out * padded);
    real *back = P(take)(&free, out * padded);
    P(turn)(turned, v, n, in);
    memset(result, 0, out * padded * sizeof(real));
    P(add_product)(result, padded, (P(matrix)){weight, in, 1}, turned, padded, out, padded, in, 1);
    P(transpose)(back, out, result, out, padded);
    P(add_scaled)(z, 1, back, n * out);
}

/* z [n, out] += what a low-rank delta makes of v [n, in]: sum of (v_r v + common) c_r. */
static void P(add_low_rank)(const P(layer) *layer, const real *v, int64_t n, real common,
                            real *free)
{
    const int64_t in = layer->in, out = layer->out, m = layer->m;
    const int64_t padded = P(filled_up)(n);
    real *gram = P(take)(&free, m * padded); /* [m, n] */
    P(turn)(free, v, n, in);
    for (int64_t j = 0; j < m * padded; j++)
        gram[j] = common;
    P(add_product)(gram, padded, (P(matrix)){layer->rows, in, 1}, free, padded, m, padded, in, 1);
    P(add_product)(layer->z, out, (P(matrix)){gram, 1, padded}, layer->scaled_delta, out, n, out, m,
                   1);
}

/* d_v [n, in] += what comes through a low-rank delta from dL/dz [n, out]: sum of (c_r d) v_r. */
static void P(through_low_rank)(const P(layer) *layer, real *d_v, int64_t n, real *free)
{
    const int64_t in = layer->in, out = layer->out, m = layer->m;
    const int64_t padded = P(filled_up)(m);
    real *coefficients = P(take)(&free, n * padded); /* [n, m] */
    P(turn)(free, layer->scaled_delta, m, out);
    memset(coefficients, 0, n * padded * sizeof(real));
    P(add_product)(coefficients, padded, (P(matrix)){layer->delta, out, 1}, free, padded, n, padded,
                   out, 1);
    P(add_product)(d_v, in, (P(matrix)){coefficients, padded, 1}, layer->rows, in, n, in, m, 1);
}

/* z [n, h_1] of a first layer that is the user's own. */
static void P(own_first_layer)(const P(user) *u, real *free)
{
    const P(layer) *first = &u->layers[0];
    const int64_t k = u->shared_columns;
    real *common = P(take)(&free, first->out);
    for (int64_t j = 0; j < first->out; j++)
        common[j] = first->own_bias[j] + P(dot)(first->own_shared + j * k, u->shared, k);
    P(repeat)(first->z, common, u->n, first->out);
    P(apply_layer)(first->z, u->x, first->own_weight, u->n, first->in, first->out, free);
}

/* z [n, h] of any other. */
static void P(other_layer)(const P(layer) *layer, const real *v, int64_t n, real *free)
{
    const int is_own = layer->own_weight != NULL;
    P(repeat)(layer->z, is_own ? layer->own_bias : layer->bias, n, layer->out);
    P(apply_layer)(layer->z, v, is_own ? layer->own_weight : layer->weight, n, layer->in,
                   layer->out, free);
    if (layer->m > 0)
        P(add_low_rank)(layer, v, n, 1, free);
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

/* From z of the first layer to the predictions. */
static void P(forward)(P(user) *u, real *free)
{
    const int64_t n = u->n, c = u->columns;
    const real *film = u->film;
    for (int64_t l = 0; l < u->depth; l++) {
        const P(layer) *layer = &u->layers[l];
        if (l > 0)
            P(other_layer)(layer, u->layers[l - 1].h, n, free);
        P(modulate)(u->activation, layer->h, layer->z, film, film ? film + layer->out : NULL, n,
                    layer->out);
        film += film ? 2 * layer->out : 0;
    }
    const P(layer) *last = &u->layers[u->depth - 1];
    real common = *u->output_bias;
    if (u->kernel_x)
        common += P(dot)(u->kernel_of_shared, u->kernel_shared, u->shared_columns);
    for (int64_t i = 0; i < n; i++) {
        u->prediction[i] = common + P(dot)(u->output, last->h + i * last->out, last->out);
        if (u->kernel_x)
            u->prediction[i] += P(dot)(u->kernel, u->kernel_x + i * c, c);
    }
}

/* The loss's gradient by the predictions. */
static void P(through_loss)(P(user) *u)
{
    u->d_total = 0;
    for (int64_t i = 0; i < u->n; i++) {
        real prediction = u->prediction[i];
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
static void P(backward)(P(user) *u, real *free)
{
    const int64_t n = u->n;
    const P(layer) *last = &u->layers[u->depth - 1];
    int64_t film_width = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < last->out; j += LANES)
            P(store)(last->delta + i * last->out + j,
                     u->d_prediction[i] * P(load)(u->output + j, last->out - j), last->out - j);
    for (int64_t l = 0; l < u->depth; l++)
        film_width += 2 * u->layers[l].out;
    for (int64_t l = u->depth - 1; l >= 0; l--) {
        const P(layer) *layer = &u->layers[l];
        film_width -= 2 * layer->out;
        const real *scale = u->film ? u->film + film_width : NULL;
        real *d_scale = u->film ? u->d_film + film_width : NULL;
        P(through_modulation)(u->activation, layer->delta, layer->h, layer->z, scale, d_scale,
                              u->film ? d_scale + layer->out : NULL, layer->delta_sum, n,
                              layer->out);
        if (l == 0)
            break;
        real *d_v = u->layers[l - 1].delta;
        const real *weight = layer->own_weight ? layer->own_weight : layer->weight;
        memset(d_v, 0, n * layer->in * sizeof(real));
        P(add_product)(d_v, layer->in, (P(matrix)){layer->delta, layer->out, 1}, weight, layer->in,
                       n, layer->in, layer->out, 1);
        if (layer->m > 0)
            P(through_low_rank)(layer, d_v, n, free);
    }
}
