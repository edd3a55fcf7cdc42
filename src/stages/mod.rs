//! The stages of the pipeline: each takes a group from one state to the next, or fails and leaves nothing behind.

#[cfg(feature = "snapshots")]
mod adopt;
mod bind;
mod enter;
#[cfg(feature = "snapshots")]
mod gather;
mod help;
#[cfg(feature = "snapshots")]
mod keep;
mod map;
mod publish;
mod seal;
#[cfg(feature = "snapshots")]
mod sharing;
#[cfg(not(feature = "snapshots"))]
#[path = "alone.rs"]
mod sharing;
#[cfg(feature = "snapshots")]
mod trail;

pub(crate) use bind::scope;
pub(crate) use enter::{Admitted, admit, called, directories, discover, reopen};
pub(crate) use help::HostHelp;
pub(crate) use map::map;
use publish::initialise;
pub(crate) use publish::publish;
pub(crate) use seal::seal;
#[cfg(feature = "snapshots")]
pub(crate) use sharing::create;
pub(crate) use sharing::{Placed, Shared, Sharing, Wish};
