//! The command as it is run by hand, but for an environment that changes nothing.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
    command.stdin(Stdio::null());
    for variable in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR", "LD_LIBRARY_PATH", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    command().args(arguments).output().unwrap()
}

/// What a run printed, which ended with this code.
#[track_caller]
pub(crate) fn texts<S: AsRef<OsStr>>(code: i32, arguments: impl IntoIterator<Item = S>) -> (String, String) {
    let output = run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{}\n{out}\n{err}", output.status);
    (out, err)
}

/// What a successful run printed; it complained of nothing.
#[track_caller]
pub(crate) fn out<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let (out, err) = texts(0, arguments);
    assert_eq!(err, "");
    out
}

/// The document a run printed, which ended with this code; it is one line, and nothing else was said.
#[track_caller]
pub(crate) fn document<S: AsRef<OsStr>>(code: i32, arguments: impl IntoIterator<Item = S>) -> Value {
    let (out, err) = texts(code, arguments);
    assert_eq!((out.lines().count(), err.as_str()), (1, ""), "{out}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["schema"], 1);
    document
}
