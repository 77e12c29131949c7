/* The workloads, each once, in C and C++ alike; a peer's source file includes this at its end. `crossbeam.rs` has them in
 * Rust.
 *
 * Before that it defines, over 64-bit items that are not negative:
 *
 *   struct pool                          what threads share
 *   new_pool(capacity, items)            one with room for `capacity`, holding the items 0 to `items` - 1
 *   free_pool(pool)
 *   get(seat), put(seat, item)           an item, or -1 if there is none; false if there is no room
 *
 * A seat is what one thread uses, the pool itself unless the file defines SEATS and: struct seat, enter(pool),
 * leave(seat), and left(pool), how many items it holds; exact while no thread uses it. With BULK it defines get_many(seat, items,
 * n), which returns how many it got, and put_many(seat, items, n), which puts them all.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ITEMS = 1000, ROOM = 1024, BATCH = 32, HELD = 48, BUFFER = 1024, MOST_THREADS = 256 };

#ifndef SEATS
typedef struct pool seat;

static seat *enter(struct pool *pool) { return pool; }

static void leave(seat *seat) { (void)seat; }

static int64_t left(struct pool *pool) {
    int64_t n = 0;
    while (get(pool) >= 0) n++;
    return n;
}
#endif

static inline void pause_once(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Pause 1, 2, 4 ... 128 times, then yield the processor. */
static inline void relax(int turn) {
    if (turn < 8)
        for (int k = 0; k < 1 << turn; k++) pause_once();
    else
        sched_yield();
}

static inline int64_t take(seat *seat) {
    int64_t item;
    for (int turn = 0; (item = get(seat)) < 0; turn++) relax(turn);
    return item;
}

static inline void give(seat *seat, int64_t item) {
    for (int turn = 0; !put(seat, item); turn++) relax(turn);
}

#ifndef BULK
static inline int64_t get_many(seat *seat, int64_t *items, int64_t n) {
    for (int64_t k = 0; k < n; k++)
        if ((items[k] = get(seat)) < 0) return k;
    return n;
}

static inline void put_many(seat *seat, const int64_t *items, int64_t n) {
    for (int64_t k = 0; k < n; k++) give(seat, items[k]);
}
#endif

struct task { /* what the threads of one run share */
    struct pool *pool, *queue;
    unsigned char *buffers;
    int64_t n;
    int threads, ready;
};

struct worker {
    struct task *task;
    void (*role)(struct worker *, seat *pool, seat *queue);
    int64_t start, end, sum;
    pthread_t thread;
};

typedef void role(struct worker *, seat *, seat *);

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Spin until all threads are here, so that none of them starts alone. */
static void begin(struct worker *worker) {
    struct task *task = worker->task;
    __atomic_add_fetch(&task->ready, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&task->ready, __ATOMIC_ACQUIRE) < task->threads) pause_once();
    worker->start = now();
}

static void *work(void *argument) {
    struct worker *worker = (struct worker *)argument;
    struct task *task = worker->task;
    seat *pool = enter(task->pool), *queue = task->queue ? enter(task->queue) : NULL;
    worker->role(worker, pool, queue);
    worker->end = now();
    if (queue) leave(queue);
    leave(pool);
    return NULL;
}

/* Return the nanoseconds from the first thread's start to the last one's end, or NaN if items or bytes were lost. */
static double measure(struct task task, int64_t items, int64_t sum, role *first, role *second) {
    struct worker workers[MOST_THREADS] = {};
    for (int k = 0; k < task.threads; k++) {
        workers[k].task = &task;
        workers[k].role = k % 2 ? second : first;
        pthread_create(&workers[k].thread, NULL, work, &workers[k]);
    }
    int64_t start = INT64_MAX, end = 0;
    for (int k = 0; k < task.threads; k++) {
        pthread_join(workers[k].thread, NULL);
        start = workers[k].start < start ? workers[k].start : start;
        end = workers[k].end > end ? workers[k].end : end;
        sum -= workers[k].sum;
    }
    bool whole = sum == 0 && left(task.pool) == items;
    free_pool(task.pool);
    if (task.queue) free_pool(task.queue);
    free(task.buffers);
    return whole ? (double)(end - start) : NAN;
}

static double on_a_full_pool(role *role, int64_t n, int threads) {
    struct task task = {new_pool(ITEMS, ITEMS), NULL, NULL, n, threads, 0};
    return measure(task, ITEMS, 0, role, role) / (double)(n * threads);
}

static void pairs_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) give(pool, take(pool));
}

static void hold_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    int64_t held[HELD];
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k += HELD) {
        for (int j = 0; j < HELD; j++) held[j] = take(pool);
        for (int j = 0; j < HELD; j++) give(pool, held[j]);
    }
}

static void bulk_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    int64_t items[BATCH];
    begin(worker);
    for (int64_t k = 0; k < worker->task->n;) {
        int64_t n = get_many(pool, items, BATCH);
        put_many(pool, items, n);
        k += n;
    }
}

static void empty_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    int64_t items[ITEMS], n = 0;
    while ((items[n] = get(pool)) >= 0 && ++n < ITEMS) continue;
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) {
        worker->sum += get(pool) + 1;
        __asm__ volatile("" ::: "memory"); /* the compiler must not assume that it stays empty */
    }
    int64_t end = now();
    for (int64_t k = 0; k < n; k++) give(pool, items[k]);
    worker->start += now() - end;
}

static void produce_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) give(pool, k & (ROOM - 1));
}

static void consume_role(struct worker *worker, seat *pool, seat *queue) {
    (void)queue;
    int64_t sum = 0;
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) sum += take(pool);
    worker->sum = sum;
}

static void write_role(struct worker *worker, seat *pool, seat *queue) {
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) {
        int64_t item = take(pool);
        memset(worker->task->buffers + item * BUFFER, (int)(k & 255), BUFFER);
        give(queue, item);
    }
}

static void read_role(struct worker *worker, seat *pool, seat *queue) {
    int64_t sum = 0;
    begin(worker);
    for (int64_t k = 0; k < worker->task->n; k++) {
        int64_t item = take(queue);
        const unsigned char *buffer = worker->task->buffers + item * BUFFER;
        for (int j = 0; j < BUFFER; j++) sum += buffer[j];
        give(pool, item);
    }
    worker->sum = sum;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Each returns nanoseconds for one get and put, one failing get, or one item passed on; or NaN. */
double pairs(int64_t n, int threads) { return on_a_full_pool(pairs_role, n, threads); }

double hold(int64_t n, int threads) { return on_a_full_pool(hold_role, n, threads); }

double bulk(int64_t n, int threads) { return on_a_full_pool(bulk_role, n, threads); }

double empty(int64_t n, int threads) { return on_a_full_pool(empty_role, n, threads); }

double transfer(int64_t n, int threads) {
    struct task task = {new_pool(ROOM, 0), NULL, NULL, n, threads, 0};
    int64_t sum = 0;
    for (int64_t k = 0; k < n; k++) sum += k & (ROOM - 1);
    return measure(task, 0, sum, produce_role, consume_role) / (double)n;
}

double buffers(int64_t n, int threads) {
    unsigned char *memory = (unsigned char *)calloc(ITEMS, BUFFER);
    struct task task = {new_pool(ITEMS, ITEMS), new_pool(ROOM, 0), memory, n, threads, 0};
    int64_t sum = 0;
    for (int64_t k = 0; k < n; k++) sum += (k & 255) * BUFFER;
    return measure(task, ITEMS, sum, write_role, read_role) / (double)n;
}

/* Get all items of a new pool of `n`, put them back and get them again; store them in `out`, return how many. */
int64_t contents(int64_t n, int64_t *out) {
    struct pool *pool = new_pool(n, n);
    seat *seat = enter(pool);
    int64_t got = get_many(seat, out, n);
    put_many(seat, out, got);
    for (got = 0; got < n && (out[got] = get(seat)) >= 0;) got++;
    leave(seat);
    free_pool(pool);
    return got;
}

#ifdef __cplusplus
}
#endif
