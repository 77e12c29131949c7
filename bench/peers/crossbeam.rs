// crossbeam's ArrayQueue, and the workloads of work.h in Rust: calls between languages would not be inlined.
use crossbeam_queue::ArrayQueue;
use std::hint::spin_loop;
use std::iter::from_fn;
use std::sync::atomic::{compiler_fence, AtomicI32, Ordering};
use std::thread;
use std::time::Instant;

const ITEMS: i64 = 1000;
const ROOM: i64 = 1024;
const BATCH: usize = 32;
const HELD: usize = 48;
const BUFFER: usize = 1024;

type Queue = ArrayQueue<i64>;

/// Return a queue with room for `capacity`, holding the items 0 to `items` - 1.
fn new_queue(capacity: i64, items: i64) -> Queue {
    let queue = Queue::new(capacity as usize);
    (0..items).for_each(|item| give(&queue, item));
    queue
}

/// Take all items out.
fn drain(queue: &Queue) -> Vec<i64> {
    from_fn(|| queue.pop()).collect()
}

/// Pause 1, 2, 4 ... 128 times, then yield the processor.
fn relax(turn: u32) {
    if turn < 8 {
        (0..1 << turn).for_each(|_| spin_loop());
    } else {
        thread::yield_now();
    }
}

#[inline]
fn take(queue: &Queue) -> i64 {
    let mut turn = 0;
    loop {
        if let Some(item) = queue.pop() {
            return item;
        }
        relax(turn);
        turn += 1;
    }
}

#[inline]
fn give(queue: &Queue, item: i64) {
    let mut turn = 0;
    while queue.push(item).is_err() {
        relax(turn);
        turn += 1;
    }
}

/// Run a role on each thread; return nanoseconds from the first start to the last end, and the sum of what roles return.
fn race(threads: i32, role: impl Fn(i32) -> i64 + Sync) -> (f64, i64) {
    let ready = AtomicI32::new(0);
    let work = |k| {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::Acquire) < threads {
            spin_loop(); // until all are here, so that none starts alone
        }
        let start = Instant::now();
        let sum = role(k);
        (start, Instant::now(), sum)
    };
    let work = &work;
    let done: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|k| scope.spawn(move || work(k))).collect();
        running.into_iter().map(|each| each.join().unwrap()).collect()
    });
    let start = done.iter().map(|each| each.0).min().unwrap();
    let end = done.iter().map(|each| each.1).max().unwrap();
    ((end - start).as_nanos() as f64, done.iter().map(|each| each.2).sum())
}

fn on_a_full_queue(n: i64, threads: i32, role: impl Fn(&Queue) + Sync) -> f64 {
    let queue = new_queue(ITEMS, ITEMS);
    let (nanoseconds, _) = race(threads, |_| {
        role(&queue);
        0
    });
    or_lost(drain(&queue).len() == ITEMS as usize, nanoseconds / (n * threads as i64) as f64)
}

fn or_lost(whole: bool, nanoseconds: f64) -> f64 {
    if whole {
        nanoseconds
    } else {
        f64::NAN
    }
}

#[no_mangle]
pub extern "C" fn pairs(n: i64, threads: i32) -> f64 {
    on_a_full_queue(n, threads, |queue| (0..n).for_each(|_| give(queue, take(queue))))
}

#[no_mangle]
pub extern "C" fn hold(n: i64, threads: i32) -> f64 {
    on_a_full_queue(n, threads, |queue| {
        let mut held = [0; HELD];
        for _ in (0..n).step_by(HELD) {
            held.iter_mut().for_each(|item| *item = take(queue));
            held.iter().for_each(|&item| give(queue, item));
        }
    })
}

#[no_mangle]
pub extern "C" fn bulk(n: i64, threads: i32) -> f64 {
    on_a_full_queue(n, threads, |queue| {
        let mut items = [0; BATCH];
        let mut done = 0;
        while done < n {
            let mut got = 0;
            while got < BATCH {
                match queue.pop() {
                    Some(item) => items[got] = item,
                    None => break,
                }
                got += 1;
            }
            items[..got].iter().for_each(|&item| give(queue, item));
            done += got as i64;
        }
    })
}

#[no_mangle]
pub extern "C" fn empty(n: i64, threads: i32) -> f64 {
    let queue = new_queue(ITEMS, 0);
    let (nanoseconds, found) = race(threads, |_| {
        let mut found = 0;
        for _ in 0..n {
            found += queue.pop().is_some() as i64;
            compiler_fence(Ordering::SeqCst); // it must not assume that the queue stays empty
        }
        found
    });
    or_lost(found == 0, nanoseconds / (n * threads as i64) as f64)
}

#[no_mangle]
pub extern "C" fn transfer(n: i64, threads: i32) -> f64 {
    let queue = new_queue(ROOM, 0);
    let (nanoseconds, sum) = race(threads, |k| {
        if k % 2 == 1 {
            return (0..n).map(|_| take(&queue)).sum();
        }
        (0..n).for_each(|item| give(&queue, item & (ROOM - 1)));
        0
    });
    let expected: i64 = (0..n).map(|item| item & (ROOM - 1)).sum();
    or_lost(sum == expected && queue.is_empty(), nanoseconds / n as f64)
}

#[no_mangle]
pub extern "C" fn buffers(n: i64, threads: i32) -> f64 {
    let mut memory = vec![0u8; ITEMS as usize * BUFFER];
    let address = memory.as_mut_ptr() as usize;
    let buffer = |item: i64| (address + item as usize * BUFFER) as *mut u8; // of whoever has the item
    let (pool, queue) = (new_queue(ITEMS, ITEMS), new_queue(ROOM, 0));
    let (nanoseconds, sum) = race(threads, |k| {
        let mut sum = 0;
        for round in 0..n {
            if k % 2 == 0 {
                let item = take(&pool);
                unsafe { buffer(item).write_bytes(round as u8, BUFFER) };
                give(&queue, item);
            } else {
                let item = take(&queue);
                let bytes = unsafe { std::slice::from_raw_parts(buffer(item), BUFFER) };
                sum += bytes.iter().map(|&byte| byte as i64).sum::<i64>();
                give(&pool, item);
            }
        }
        sum
    });
    let expected: i64 = (0..n).map(|round| (round & 255) * BUFFER as i64).sum();
    or_lost(sum == expected && drain(&pool).len() == ITEMS as usize, nanoseconds / n as f64)
}

/// Get all items of a new queue of `n`, put them back and get them again; store them in `out`, return how many.
///
/// # Safety
/// There is room for `n` items at `out`.
#[no_mangle]
pub unsafe extern "C" fn contents(n: i64, out: *mut i64) -> i64 {
    let queue = new_queue(n, n);
    drain(&queue).into_iter().for_each(|item| give(&queue, item));
    let found = drain(&queue);
    found.as_ptr().copy_to_nonoverlapping(out, found.len());
    found.len() as i64
}
