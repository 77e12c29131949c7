// DPDK's rte_ring in its form for many producers and consumers.
#include <rte_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { SLOTS = 2048 };

struct pool {
    struct rte_ring ring;
};

static inline int64_t get(struct pool *pool) {
    void *item;
    return rte_ring_mc_dequeue(&pool->ring, &item) == 0 ? (int64_t)item : -1;
}

static inline bool put(struct pool *pool, int64_t item) {
    return rte_ring_mp_enqueue(&pool->ring, (void *)item) == 0;
}

static inline int64_t get_many(struct pool *pool, int64_t *items, int64_t n) {
    return rte_ring_mc_dequeue_burst(&pool->ring, (void **)items, n, NULL);
}

static inline void put_many(struct pool *pool, const int64_t *items, int64_t n) {
    while (rte_ring_mp_enqueue_bulk(&pool->ring, (void *const *)items, n, NULL) == 0 && n) continue;
}

static struct pool *new_pool(int64_t capacity, int64_t items) {
    struct pool *pool = aligned_alloc(128, (rte_ring_get_memsize(SLOTS) + 127) / 128 * 128);
    if (rte_ring_init(&pool->ring, "bench", capacity, RING_F_EXACT_SZ) != 0) abort();
    for (int64_t k = 0; k < items; k++) put(pool, k);
    return pool;
}

static void free_pool(struct pool *pool) { free(pool); }

#define BULK
#include "work.h"
