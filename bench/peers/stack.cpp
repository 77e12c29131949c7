// A stack of free items for one thread alone: the floor.
#include <cstdint>
#include <vector>

struct pool {
    int64_t n;
    std::vector<int64_t> items;
};

// The compiler must not fold a get and the put after it into nothing: other code lies between them.
static inline void settle() { __asm__ volatile("" ::: "memory"); }

static inline int64_t get(pool *pool) {
    int64_t item = pool->n ? pool->items[--pool->n] : -1;
    settle();
    return item;
}

static inline bool put(pool *pool, int64_t item) {
    if (pool->n == (int64_t)pool->items.size()) return false;
    pool->items[pool->n++] = item;
    settle();
    return true;
}

static pool *new_pool(int64_t capacity, int64_t items) {
    auto made = new pool{items, std::vector<int64_t>(capacity)};
    for (int64_t k = 0; k < items; k++) made->items[k] = k;
    return made;
}

static void free_pool(pool *pool) { delete pool; }

#include "work.h"
