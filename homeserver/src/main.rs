//! The binary `hearth`.

use std::process::ExitCode;

/// A send makes and drops hundreds of small strings: glibc's allocator took a seventh of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    homeserver::cli::run()
}
