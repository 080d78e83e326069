//! The binary `hearth`.

use std::process::ExitCode;

fn main() -> ExitCode {
    homeserver::cli::run()
}
