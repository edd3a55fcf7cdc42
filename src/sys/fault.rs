//! Points where a test makes the n-th system call fail.

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

#[cfg(not(test))]
#[inline]
pub(crate) fn point(_call: &str) -> nix::Result<()> {
    Ok(())
}
