//! The `hive` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    // Before anything else: the shim changes user, which is an affair of a process without threads.
    match first.as_ref().and_then(|word| word.to_str()) {
        Some("build-shim") => hive::exec::shim::main(arguments),
        Some("helper") => match hive::exec::helper::server::parse(arguments) {
            Ok(options) => hive::exec::helper::server::main(options),
            Err(problem) => {
                tracing::error!(problem, "usage");
                ExitCode::from(2)
            }
        },
        _ => ExitCode::from(2),
    }
}
