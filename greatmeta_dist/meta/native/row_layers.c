/* The layers that see the rows of a set, user by user: `__init__.py` says why.

   Each user is computed alone, from its own rows: so its bits depend neither on who else is there
   nor on how far its rows are padded. All is written once, for vectors of any width, and compiled
   for each kind of processor and each precision. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "row_layers.h"

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma")
#define VECTOR_BYTES 64
#define VECTORS 4
#define NAME(stem) stem##_avx512
#include "precisions.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VECTOR_BYTES 32
#define VECTORS 2
#define NAME(stem) stem##_avx2
#include "precisions.h"
#pragma GCC pop_options

#endif

#define VECTOR_BYTES 16
#define VECTORS 2
#define NAME(stem) stem##_plain
#include "precisions.h"

typedef void of_user(const void *work, int64_t position, void *scratch);

/* The widest vectors of this processor, in bytes, up to those that are asked for. */
static int64_t vector_bytes(const Call *call)
{
#if defined(__x86_64__)
    if (call->vector_bytes >= 64 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        return 64;
    if (call->vector_bytes >= 32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 32;
#endif
    (void)call;
    return 16;
}

static void for_each_user(const Call *call, const void *work, of_user *function)
{
#pragma omp parallel for num_threads((int)call->num_threads) schedule(dynamic)
    for (int64_t position = 0; position < call->num_users; position++) {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        function(work, position, (char *)call->scratch + thread * call->scratch_bytes);
    }
}

#if defined(__x86_64__)
#define CHOOSE(call, stem)                                             \
    (vector_bytes(call) == 64   ? CHOOSE_OF(call, stem, avx512)        \
     : vector_bytes(call) == 32 ? CHOOSE_OF(call, stem, avx2)          \
                                : CHOOSE_OF(call, stem, plain))
#else
#define CHOOSE(call, stem) CHOOSE_OF(call, stem, plain)
#endif
#define CHOOSE_OF(call, stem, kind) ((call)->is_double ? stem##_double_##kind : stem##_float_##kind)

/* For the caller to see whether it means the same structures. */
int64_t greatmeta_inner_step_bytes(void) { return sizeof(InnerStep); }

int64_t greatmeta_query_bytes(void) { return sizeof(Query); }

void greatmeta_inner_step(const InnerStep *step)
{
    for_each_user(&step->call, step, CHOOSE(&step->call, inner_step));
}

void greatmeta_query(const Query *query)
{
    for_each_user(&query->call, query, CHOOSE(&query->call, query));
}
