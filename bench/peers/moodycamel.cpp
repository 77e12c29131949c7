// moodycamel::ConcurrentQueue with a producer's and a consumer's token for each thread. It knows no capacity.
#include <concurrentqueue/concurrentqueue.h>

#include <cstdint>

struct pool {
    moodycamel::ConcurrentQueue<int64_t> queue;
};

struct seat {
    struct pool *pool;
    moodycamel::ProducerToken producer;
    moodycamel::ConsumerToken consumer;
};

static inline int64_t get(seat *seat) {
    int64_t item;
    return seat->pool->queue.try_dequeue(seat->consumer, item) ? item : -1;
}

static inline bool put(seat *seat, int64_t item) { return seat->pool->queue.enqueue(seat->producer, item); }

static inline int64_t get_many(seat *seat, int64_t *items, int64_t n) {
    return seat->pool->queue.try_dequeue_bulk(seat->consumer, items, n);
}

static inline void put_many(seat *seat, const int64_t *items, int64_t n) {
    seat->pool->queue.enqueue_bulk(seat->producer, items, n);
}

static seat *enter(pool *pool) {
    return new seat{pool, moodycamel::ProducerToken(pool->queue), moodycamel::ConsumerToken(pool->queue)};
}

static void leave(seat *seat) { delete seat; }

static int64_t left(pool *pool) { return pool->queue.size_approx(); }

static pool *new_pool(int64_t capacity, int64_t items) {
    auto made = new pool{moodycamel::ConcurrentQueue<int64_t>(capacity)};
    for (int64_t k = 0; k < items; k++) made->queue.enqueue(k);
    return made;
}

static void free_pool(pool *pool) { delete pool; }

#define SEATS
#define BULK
#include "work.h"
