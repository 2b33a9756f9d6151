//! Planning a fresh path allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use palmette_ctr::nasrec::*;
use palmette_engine::Program;

/// The system's allocator, counting what the current thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator; the count needs no allocation and no
// destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn planning_fresh_paths_allocates_nothing() {
    let shape = DatasetPreset::find("criteo").unwrap().shape;
    for operators in [Operators::Small, Operators::Full] {
        let space = NasRecSpace::published(operators);
        let network = Network::supernet(space.config(), shape, true);
        let mut program = Program::new();
        // The full path is as large as any; what it needs is there from then on.
        let full = supernet_path(&space, PathStrategy::FullPath, 0, 0, 0);
        network.build(&full, &mut program);
        program.place(512).unwrap();
        for strategy in [
            PathStrategy::SinglePath,
            PathStrategy::AnyPath,
            PathStrategy::SingleOperatorAnyConnection,
        ] {
            let paths: Vec<_> =
                (0..300).map(|step| supernet_path(&space, strategy, step, 100, 9)).collect();
            let before = ALLOCATIONS.get();
            let mut macs = 0;
            for path in &paths {
                network.build(path, &mut program);
                program.place(512).unwrap();
                macs += program.macs();
            }
            assert_eq!(ALLOCATIONS.get() - before, 0, "{operators:?}, {strategy:?}");
            assert!(macs > 0);
        }
    }
}
