/* Vectors, products of matrices and activations.

   `real` and `integer` are numbers of one size, VECTOR_BYTES the width of a vector, VECTORS how
   many of them a tile of a product is wide; P(stem) names what is of this precision and processor.
*/

typedef real P(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef integer P(mask) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define vector P(vector)
#define mask P(mask)
#define INLINE static inline __attribute__((always_inline))
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(real)))
#define TILE_ROWS 6

/* Up to LANES numbers; zeros for the rest. */
INLINE vector P(load)(const real *from, int64_t count)
{
    vector values = {0};
    if (count >= LANES)
        return *(const vector *)from;
    for (int64_t j = 0; j < count; j++)
        values[j] = from[j];
    return values;
}

INLINE void P(store)(real *to, vector values, int64_t count)
{
    if (count >= LANES)
        *(vector *)to = values;
    else
        for (int64_t j = 0; j < count; j++)
            to[j] = values[j];
}

INLINE vector P(select)(mask where, vector yes, vector no)
{
    return (vector)(((mask)yes & where) | ((mask)no & ~where));
}

INLINE real P(total)(vector values)
{
    real sum = 0;
    for (int64_t j = 0; j < LANES; j++)
        sum += values[j];
    return sum;
}

/* A matrix whose entry (i, j) stands at values[i * row + j * column]. */
typedef struct {
    const real *values;
    int64_t row, column;
} P(matrix);

/* `rows` by `vectors` entries of C += scale A B, from the `count` first columns on. */
INLINE void P(tile)(int rows, int vectors, real *c, int64_t c_row, const real *a, int64_t a_row,
                    int64_t a_column, const real *b, int64_t b_row, int64_t depth, real scale,
                    int64_t count)
{
    vector sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            sums[i][j] = (vector){0};
    for (int64_t t = 0; t < depth; t++) {
        vector b_t[VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            b_t[j] = P(load)(b + t * b_row + j * LANES, count - j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            real a_it = a[i * a_row + t * a_column];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++)
                sums[i][j] += a_it * b_t[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            real *to = c + i * c_row + j * LANES;
            int64_t left = count - j * LANES;
            P(store)(to, P(load)(to, left) + scale * sums[i][j], left);
        }
}

/* The same for any number of rows up to TILE_ROWS. */
INLINE void P(tile_rows)(int64_t rows, int vectors, real *c, int64_t c_row, const real *a,
                         int64_t a_row, int64_t a_column, const real *b, int64_t b_row,
                         int64_t depth, real scale, int64_t count)
{
#define TILE(n) \
    case n: P(tile)(n, vectors, c, c_row, a, a_row, a_column, b, b_row, depth, scale, count); break
    switch (rows) {
        TILE(1);
        TILE(2);
        TILE(3);
        TILE(4);
        TILE(5);
        TILE(6);
    }
#undef TILE
}

/* C [m, n] += scale A [m, depth] B [depth, n]; rows of B and C are contiguous. Entries add up from
   the first to the last of `depth`, whatever tile they are in. */
static void P(add_product)(real *c, int64_t c_row, P(matrix) a, const real *b, int64_t b_row,
                           int64_t m, int64_t n, int64_t depth, real scale)
{
    const int64_t wide = VECTORS * LANES;
    for (int64_t j = 0; j < n;) {
        int64_t left = n - j;
        for (int64_t i = 0; i < m; i += TILE_ROWS) {
            int64_t rows = m - i < TILE_ROWS ? m - i : TILE_ROWS;
            real *c_ij = c + i * c_row + j;
            const real *a_i = a.values + i * a.row;
            if (left >= wide)
                P(tile_rows)(rows, VECTORS, c_ij, c_row, a_i, a.row, a.column, b + j, b_row, depth,
                             scale, wide);
            else if (left >= LANES)
                P(tile_rows)(rows, 1, c_ij, c_row, a_i, a.row, a.column, b + j, b_row, depth, scale,
                             LANES);
            else
                P(tile_rows)(rows, 1, c_ij, c_row, a_i, a.row, a.column, b + j, b_row, depth, scale,
                             left);
        }
        j += left >= wide ? wide : left >= LANES ? LANES : left;
    }
}

/* LANES by LANES numbers: each round deals the rows' halves out alternately, as a deck is shuffled,
   and log2(LANES) rounds turn rows into columns. */
INLINE void P(transpose_block)(real *to, int64_t to_row, const real *from, int64_t from_row)
{
    vector rows[LANES], dealt[LANES];
    mask low, high;
#pragma GCC unroll 16
    for (int j = 0; j < LANES; j++) {
        low[j] = j % 2 * LANES + j / 2;
        high[j] = low[j] + LANES / 2;
        rows[j] = *(const vector *)(from + j * from_row);
    }
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
        for (int j = 0; j < LANES / 2; j++) {
            dealt[2 * j] = __builtin_shuffle(rows[j], rows[j + LANES / 2], low);
            dealt[2 * j + 1] = __builtin_shuffle(rows[j], rows[j + LANES / 2], high);
        }
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++)
            rows[j] = dealt[j];
    }
#pragma GCC unroll 16
    for (int j = 0; j < LANES; j++)
        *(vector *)(to + j * to_row) = rows[j];
}

/* to [columns, to_row] from [rows, columns]. */
static void P(transpose)(real *to, int64_t to_row, const real *from, int64_t rows, int64_t columns)
{
    const int64_t whole_rows = rows / LANES * LANES, whole_columns = columns / LANES * LANES;
    for (int64_t i = 0; i < whole_rows; i += LANES)
        for (int64_t j = 0; j < whole_columns; j += LANES)
            P(transpose_block)(to + j * to_row + i, to_row, from + i * columns + j, columns);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = j < whole_columns ? whole_rows : 0; i < rows; i++)
            to[j * to_row + i] = from[i * columns + j];
}

/* A number of numbers, up to whole vectors. */
INLINE int64_t P(filled_up)(int64_t count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* to [columns, rows filled up] from [rows, columns], with zeros behind. */
static void P(turn)(real *to, const real *from, int64_t rows, int64_t columns)
{
    const int64_t padded = P(filled_up)(rows);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = rows; i < padded; i++)
            to[j * padded + i] = 0;
    P(transpose)(to, padded, from, rows, columns);
}

INLINE real P(dot)(const real *a, const real *b, int64_t n)
{
    vector sums = {0};
    for (int64_t j = 0; j < n; j += LANES)
        sums += P(load)(a + j, n - j) * P(load)(b + j, n - j);
    return P(total)(sums);
}

/* to += scale from */
INLINE void P(add_scaled)(real *to, real scale, const real *from, int64_t n)
{
    for (int64_t j = 0; j < n; j += LANES)
        P(store)(to + j, P(load)(to + j, n - j) + scale * P(load)(from + j, n - j), n - j);
}

INLINE real P(sigmoid)(real z)
{
    return IS_DOUBLE ? (real)(1 / (1 + exp(-(double)z))) : (real)(1 / (1 + expf(-(float)z)));
}

/* tanh(z) = 1 - 2 / (e^(2z) + 1). In float, e^(2z) = 2^n 2^f with |f| <= 1/2, by the series of 2^f;
   the difference is at most 2e-7. What is not a number stays so. */
INLINE vector P(tanh)(vector z)
{
#if IS_DOUBLE
    for (int64_t j = 0; j < LANES; j++)
        z[j] = tanh(z[j]);
    return z;
#else
    const vector zero = {0}, most = zero + 30, least = zero - 30;
    const vector rounding = zero + 12582912; /* 1.5 * 2^23: numbers next to it are integers */
    vector power = z * 2.885390082f;         /* 2 / ln 2 */
    power = P(select)(power > most, most, power);
    power = P(select)(power < least, least, power);
    vector rounded = power + rounding, f = power - (rounded - rounding);
    vector series = zero + 1.52527338e-05f;
    series = series * f + 1.540353039e-04f;
    series = series * f + 1.333355815e-03f;
    series = series * f + 9.618129108e-03f;
    series = series * f + 5.550410866e-02f;
    series = series * f + 2.402265070e-01f;
    series = series * f + 6.931471806e-01f;
    series = series * f + 1;
    vector exponential = (vector)((mask)series + ((mask)rounded << 23));
    return 1 - 2 / (exponential + 1);
#endif
}

INLINE vector P(activate)(int64_t activation, vector z)
{
    const vector zero = {0};
    if (activation == ACTIVATION_TANH)
        return P(tanh)(z);
    return activation == ACTIVATION_RELU ? P(select)(z < zero, zero, z) : z;
}

/* dL/dz from dL/dh and h. */
INLINE vector P(through_activation)(int64_t activation, vector d_h, vector h)
{
    const vector zero = {0};
    if (activation == ACTIVATION_TANH)
        return d_h * (1 - h * h);
    return activation == ACTIVATION_RELU ? P(select)(h <= zero, zero, d_h) : d_h;
}
