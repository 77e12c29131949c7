// DPDK's rte_mempool with a cache of 256 for each thread. Its items are the addresses of its objects.
#define _GNU_SOURCE
#include <pthread.h>
#include <rte_eal.h>
#include <rte_lcore.h>
#include <rte_mempool.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { CACHE = 256, OBJECT = 64 };

// DPDK's environment starts once in a process. It ties the thread that starts it to a processor: that is undone.
__attribute__((constructor)) static void start(void) {
    char *options[] = {"bench", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "--log-level=error",
                       "-m",    "64",        NULL};
    cpu_set_t processors;
    pthread_getaffinity_np(pthread_self(), sizeof processors, &processors);
    if (rte_eal_init(8, options) < 0) abort();
    pthread_setaffinity_np(pthread_self(), sizeof processors, &processors);
}

struct pool {
    struct rte_mempool objects;
};

typedef struct pool seat;

static inline int64_t get(seat *seat) {
    void *item;
    return rte_mempool_get(&seat->objects, &item) == 0 ? (int64_t)item : -1;
}

static inline bool put(seat *seat, int64_t item) {
    rte_mempool_put(&seat->objects, (void *)item);
    return true;
}

static inline int64_t get_many(seat *seat, int64_t *items, int64_t n) {
    return rte_mempool_get_bulk(&seat->objects, (void **)items, n) == 0 ? n : 0;
}

static inline void put_many(seat *seat, const int64_t *items, int64_t n) {
    rte_mempool_put_bulk(&seat->objects, (void *const *)items, n);
}

static seat *enter(struct pool *pool) { // only threads that DPDK knows have a cache
    if (rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() != 0) abort();
    return pool;
}

static void leave(seat *seat) {
    (void)seat;
    rte_thread_unregister();
}

static int64_t left(struct pool *pool) { return rte_mempool_avail_count(&pool->objects); }

static struct pool *new_pool(int64_t capacity, int64_t items) {
    (void)items; // always full
    unsigned cache = capacity >= 2 * CACHE ? CACHE : 0;
    struct rte_mempool *objects =
        rte_mempool_create("bench", capacity, OBJECT, cache, 0, NULL, NULL, NULL, NULL, SOCKET_ID_ANY, 0);
    if (objects == NULL) abort();
    return (struct pool *)objects;
}

static void free_pool(struct pool *pool) { rte_mempool_free(&pool->objects); }

#define SEATS
#define BULK
#include "work.h"
