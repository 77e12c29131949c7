// A stack of free items under std::mutex.
#include <cstdint>
#include <mutex>
#include <vector>

struct pool {
    std::mutex mutex;
    std::vector<int64_t> items;
    size_t capacity;
};

static inline int64_t get(pool *pool) {
    std::lock_guard<std::mutex> lock(pool->mutex);
    if (pool->items.empty()) return -1;
    int64_t item = pool->items.back();
    pool->items.pop_back();
    return item;
}

static inline bool put(pool *pool, int64_t item) {
    std::lock_guard<std::mutex> lock(pool->mutex);
    if (pool->items.size() == pool->capacity) return false;
    pool->items.push_back(item);
    return true;
}

static inline int64_t get_many(pool *pool, int64_t *items, int64_t n) {
    std::lock_guard<std::mutex> lock(pool->mutex);
    int64_t k = 0;
    for (; k < n && !pool->items.empty(); k++) {
        items[k] = pool->items.back();
        pool->items.pop_back();
    }
    return k;
}

static inline void put_many(pool *pool, const int64_t *items, int64_t n) {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->items.insert(pool->items.end(), items, items + n);
}

static pool *new_pool(int64_t capacity, int64_t items) {
    auto made = new pool;
    made->capacity = capacity;
    made->items.reserve(capacity);
    for (int64_t k = 0; k < items; k++) made->items.push_back(k);
    return made;
}

static void free_pool(pool *pool) { delete pool; }

#define BULK
#include "work.h"
