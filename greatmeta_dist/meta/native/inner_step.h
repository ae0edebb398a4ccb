/* One inner step of one user, on its support. */

/* z [n, h_1] of the first layer. */
static void P(first_layer)(const InnerStep *s, const P(user) *u, int64_t position, real *free)
{
    const P(layer) *first = &u->layers[0];
    const int64_t h = first->out, r = s->sets.num_rows, n = u->n;
    const int is_moved = s->layers.num_steps > 0;
    if (is_moved && first->own_weight) {
        P(own_first_layer)(u, free);
        return;
    }
    memcpy(first->z, (const real *)s->sets.first_output + position * r * h, n * h * sizeof(real));
    if (!is_moved)
        return;
    const int64_t leading = P(filled_up)(r);
    P(matrix) gram = {part(s->gram, position, r * leading), leading, 1};
    P(add_product)(first->z, h, gram, first->scaled_delta, h, n, h, n, 1);
}

/* A copy of a layer moves: W -= rate dL/dz' v, b -= rate dL/db. */
static void P(move_own)(const P(layer) *layer, const real *v, int64_t n, real rate)
{
    P(add_product)(layer->own_weight, layer->in, (P(matrix)){layer->delta, 1, layer->out}, v,
                   layer->in, layer->out, layer->in, n, -rate);
    P(add_scaled)(layer->own_bias, -rate, layer->delta_sum, layer->out);
}

/* All layers move, from dL/dz of each. */
static void P(move)(const P(user) *u, int64_t num_steps, real rate)
{
    const int64_t n = u->n, c = u->columns, k = u->shared_columns;
    const P(layer) *first = &u->layers[0], *last = &u->layers[u->depth - 1];
    if (first->scaled_delta) {
        P(add_scaled)(first->scaled_delta, -rate, first->delta, n * first->out);
    } else {
        for (int64_t j = 0; j < first->out; j++)
            P(add_scaled)(first->own_shared + j * k, -rate * first->delta_sum[j], u->shared, k);
        P(move_own)(first, u->x, n, rate);
    }
    for (int64_t l = 1; l < u->depth; l++) {
        const P(layer) *layer = &u->layers[l];
        const real *v = u->layers[l - 1].h;
        if (!layer->scaled_delta) {
            P(move_own)(layer, v, n, rate);
            continue;
        }
        const int64_t done = num_steps * n;
        real *delta = layer->scaled_delta + done * layer->out;
        memcpy(layer->rows + done * layer->in, v, n * layer->in * sizeof(real));
        memset(delta, 0, n * layer->out * sizeof(real));
        P(add_scaled)(delta, -rate, layer->delta, n * layer->out);
    }
    for (int64_t i = 0; i < n; i++)
        P(add_scaled)(u->output, -rate * u->d_prediction[i], last->h + i * last->out, last->out);
    *u->output_bias -= rate * u->d_total;
    if (!u->kernel_x)
        return;
    for (int64_t i = 0; i < n; i++)
        P(add_scaled)(u->kernel, -rate * u->d_prediction[i], u->kernel_x + i * c, c);
    P(add_scaled)(u->kernel_of_shared, -rate * u->d_total, u->kernel_shared, k);
}

/* X X' and what the shared columns and the bias add to all of it. */
static void P(make_gram)(const InnerStep *s, const P(user) *u, int64_t position, real *free)
{
    const int64_t r = s->sets.num_rows, n = u->n, c = u->columns;
    const int64_t leading = P(filled_up)(r), padded = P(filled_up)(n);
    real *gram = part(s->gram, position, r * leading);
    const real common = 1 + P(dot)(u->shared, u->shared, u->shared_columns);
    P(turn)(free, u->x, n, c);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < padded; j++)
            gram[i * leading + j] = common;
    P(add_product)(gram, leading, (P(matrix)){u->x, c, 1}, free, padded, n, padded, c, 1);
}

static void P(inner_step)(const void *work, int64_t position, void *scratch)
{
    const InnerStep *s = work;
    const int64_t index = s->call.users ? s->call.users[position] : position;
    P(user) u = P(user_of)(&s->call, &s->sets, &s->layers, position, position, index);
    u.n = P(count_rows)(u.row_weight, u.n);
    if (u.n == 0) {
        for (int64_t l = 0; u.d_film && l < u.depth; l++)
            for (int64_t j = 0; j < 2 * u.layers[l].out; j++)
                *u.d_film++ = 0;
        return;
    }
    real *free = scratch;
    for (int64_t l = 0; l < u.depth; l++) {
        P(layer) *layer = &u.layers[l];
        layer->z = P(take)(&free, u.n * layer->out);
        layer->h = P(take)(&free, u.n * layer->out);
        layer->delta = P(take)(&free, u.n * layer->out);
        layer->delta_sum = P(take)(&free, layer->out);
        layer->m = l > 0 && layer->scaled_delta ? s->layers.num_steps * u.n : 0;
    }
    u.prediction = P(take)(&free, u.n);
    u.d_prediction = P(take)(&free, u.n);
    P(first_layer)(s, &u, position, free);
    P(forward)(&u, free);
    P(through_loss)(&u);
    P(backward)(&u, free);
    P(move)(&u, s->layers.num_steps, (real)s->rate);
    if (s->layers.num_steps == 0 && s->gram)
        P(make_gram)(s, &u, position, free);
}
