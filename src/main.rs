//! The `hive` program: everything is in the library, so that tests reach it.

use std::process::ExitCode;

/// A busy agent asks for memory hundreds of thousands of times a second, on a dozen threads; the system's allocator took a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hive::cli::main()
}
