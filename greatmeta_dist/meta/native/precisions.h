/* All in both precisions, for the kind of processor that is set. */

#define real float
#define integer int32_t
#define IS_DOUBLE 0
#define P(stem) NAME(stem##_float)
#include "vectors.h"
#include "passes.h"
#include "inner_step.h"
#include "query.h"
#undef real
#undef integer
#undef IS_DOUBLE
#undef P

#define real double
#define integer int64_t
#define IS_DOUBLE 1
#define P(stem) NAME(stem##_double)
#include "vectors.h"
#include "passes.h"
#include "inner_step.h"
#include "query.h"
#undef real
#undef integer
#undef IS_DOUBLE
#undef P

#undef VECTOR_BYTES
#undef VECTORS
#undef NAME
