// boost::lockfree::queue, its nodes allocated beforehand.
#include <boost/lockfree/queue.hpp>
#include <cstdint>

struct pool {
    boost::lockfree::queue<int64_t, boost::lockfree::fixed_sized<true>> queue;
};

static inline int64_t get(pool *pool) {
    int64_t item;
    return pool->queue.pop(item) ? item : -1;
}

static inline bool put(pool *pool, int64_t item) { return pool->queue.push(item); }

static pool *new_pool(int64_t capacity, int64_t items) {
    auto made = new pool{boost::lockfree::queue<int64_t, boost::lockfree::fixed_sized<true>>(capacity)};
    for (int64_t k = 0; k < items; k++) put(made, k);
    return made;
}

static void free_pool(pool *pool) { delete pool; }

#include "work.h"
