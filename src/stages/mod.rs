//! The stages of the pipeline: each takes a group from one state to the next, or fails and leaves nothing behind.

mod bind;
mod enter;
mod help;
mod map;
mod publish;
mod seal;

pub(crate) use bind::{relocate, scope};
pub(crate) use enter::{Admitted, admit, directories, discover, reopen};
pub(crate) use help::HostHelp;
pub(crate) use map::map;
pub(crate) use publish::publish;
pub(crate) use seal::seal;
