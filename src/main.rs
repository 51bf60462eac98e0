//! The `tollgate` program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: keys, credentials and records are in most files that this program makes.
    tollgate::data_dir::make_files_private();
    // The allocator asks for huge pages; each that is touched at all is 2 MiB of memory. A kernel
    // that cannot do without them does with them. See tuning.md, "huge pages".
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    tollgate::cli::main()
}
