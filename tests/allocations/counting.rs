//! An allocator that counts by thread and, where asked to, remembers who called it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counts what each thread asks for, and leaves the rest to the system.
pub struct Counting;

const THREADS_MAX: usize = 64;
/// By thread, in the order of their first allocations; all beyond the last are one.
static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];
static THREADS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static WATCHED: AtomicUsize = AtomicUsize::new(usize::MAX);
static WATCHES: AtomicBool = AtomicBool::new(false);
static SEEN: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
    static TRACING: Cell<bool> = const { Cell::new(false) };
}

/// Where the calling thread is counted.
pub fn place() -> usize {
    if PLACE.get() == usize::MAX {
        let place = NEXT.fetch_add(1, Relaxed).min(THREADS_MAX - 1);
        THREADS[place].store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
        PLACE.set(place);
    }
    PLACE.get()
}

/// Where the one thread of this process with this name is counted.
pub fn place_of(name: &str) -> usize {
    let named = |thread: &AtomicI32| {
        let path = format!("/proc/self/task/{}/comm", thread.load(Relaxed));
        std::fs::read_to_string(path).is_ok_and(|it| it.trim_end() == name)
    };
    THREADS.iter().position(named).unwrap()
}

/// What the thread at this place has asked for so far.
pub fn count(place: usize) -> u64 {
    COUNTS[place].load(Relaxed)
}

/// Who of this program's own code asks for what at this place while `run` runs, and how often.
pub fn callers(place: usize, run: impl FnOnce()) -> String {
    SEEN.lock().unwrap().clear();
    WATCHED.store(place, Relaxed);
    WATCHES.store(true, Relaxed);
    run();
    WATCHES.store(false, Relaxed);
    let seen = SEEN.lock().unwrap();
    seen.iter().map(|(caller, times)| format!("{times} × {caller}\n")).collect()
}

fn counted() {
    if TRACING.get() {
        return;
    }
    let place = place();
    COUNTS[place].fetch_add(1, Relaxed);
    if WATCHES.load(Relaxed) && WATCHED.load(Relaxed) == place {
        TRACING.set(true);
        let trace = Backtrace::force_capture().to_string();
        let ours = |line: &&str| line.contains("tollgate::") || line.contains("shard::");
        let frames = trace.lines().filter(ours).take(4).map(str::trim);
        let caller = frames.collect::<Vec<_>>().join(" < ");
        *SEEN.lock().unwrap().entry(caller).or_default() += 1;
        TRACING.set(false);
    }
}

#[expect(unsafe_code, reason = "the trait is unsafe")]
// SAFETY: every call goes to the system's allocator as it came; counting changes none of them.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted();
        // SAFETY: the caller keeps to the trait's contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        counted();
        // SAFETY: as above; the pointer came from `alloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}
