// Concurrency Kit's ck_ring in its form for many producers and consumers.
#include <ck_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { SLOTS = 2048 }; // a power of two; it holds one less

struct pool {
    ck_ring_t ring;
    ck_ring_buffer_t slots[SLOTS];
};

static inline int64_t get(struct pool *pool) {
    void *item;
    return ck_ring_dequeue_mpmc(&pool->ring, pool->slots, &item) ? (int64_t)item : -1;
}

static inline bool put(struct pool *pool, int64_t item) {
    return ck_ring_enqueue_mpmc(&pool->ring, pool->slots, (void *)item);
}

static struct pool *new_pool(int64_t capacity, int64_t items) {
    struct pool *pool = aligned_alloc(128, (sizeof(struct pool) + 127) / 128 * 128);
    if (capacity >= SLOTS) abort();
    ck_ring_init(&pool->ring, SLOTS);
    for (int64_t k = 0; k < items; k++) put(pool, k);
    return pool;
}

static void free_pool(struct pool *pool) { free(pool); }

#include "work.h"
