//! The Python that has matrix-nio, a client library that nobody here wrote, and the scripts of `tests/python` for it.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// A script of `tests/python`, to be given its arguments. It ends when the command is dropped.
///
/// # Panics
///
/// When there is no Python for it.
pub fn python_script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(here().join("python").join(name)).kill_on_drop(true);
    command
}

fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("HEARTH_TEST_PYTHON") {
        return python.into();
    }
    let python = here().join("../target/python/bin/python");
    assert!(
        python.exists(),
        "matrix-nio is missing: ./test installs it in target/python, or HEARTH_TEST_PYTHON names a Python that has it"
    );
    python
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
