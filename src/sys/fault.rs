//! Points where a test makes the n-th system call fail, in a process of its own.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    /// How many more calls succeed; `None` leaves everything alone.
    pub(crate) static SUCCEED: Cell<Option<u32>> = const { Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn point(_call: &str) -> nix::Result<()> {
    match SUCCEED.get() {
        Some(0) => Err(nix::errno::Errno::ENOMEM),
        Some(more) => {
            SUCCEED.set(Some(more - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

/// Whether this is a process in which nothing else goes on. If not, has the test of that name run in one, and holds it to that.
#[cfg(test)]
pub(crate) fn alone(test: &str) -> bool {
    const CHILD: &str = "SOLOAD_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1").env_remove("LD_LIBRARY_PATH");
    let child = child.output().unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{}\n{output}{}", child.status, String::from_utf8_lossy(&child.stderr));
    assert!(output.contains("1 passed"), "the child ran the test: {output}");
    false
}

#[cfg(not(test))]
#[inline]
pub(crate) fn point(_call: &str) -> nix::Result<()> {
    Ok(())
}
