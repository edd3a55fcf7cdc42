//! What relocating an object leaves to do, and to remember.

use super::call::Arrays;
use super::numbers::Numbers;
use super::scope::Definition;
use crate::addr::{Addr, Vaddr};
use crate::arch::Kind;

/// A word that an IFUNC resolver decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) place: Vaddr,
    pub(crate) bytes: u8,
    /// Where the resolver is.
    pub(crate) resolver: Addr,
    /// The object that has the resolver, by its number among the providers.
    pub(crate) provider: usize,
    /// What is added to its answer.
    pub(crate) plus: u64,
}

/// A word, or pair of words, that waits until it is known where thread-local storage is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadLocal {
    pub(crate) place: Vaddr,
    pub(crate) kind: Kind,
    /// The object that has the variable, by its number among the providers.
    pub(crate) provider: usize,
    /// Where the variable is in its block, the addend included.
    pub(crate) offset: u64,
}

/// A word that has been written, and would be another one in another process.
#[cfg_attr(not(feature = "snapshots"), allow(dead_code))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    pub(crate) place: Vaddr,
    pub(crate) bytes: u8,
    /// What it was bound to.
    pub(crate) definition: Definition,
    /// What was added to that.
    pub(crate) plus: u64,
}

/// What relocating one object has left to do and to remember.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) thread_local: Vec<ThreadLocal>,
    pub(crate) pending: Vec<Pending>,
    /// Symbols of weak references that nobody defines.
    pub(crate) missing: Vec<u32>,
    /// Words of the procedure linkage table wait for the first call.
    pub(crate) lazy: bool,
    /// If they were to be noted.
    pub(crate) foreign: Vec<Foreign>,
    /// The arrays of functions to run, where more is known of them than their words say.
    pub(crate) arrays: Option<Arrays>,
    /// Which providers it is bound to now, by number.
    pub(crate) bound_to: Numbers,
}
