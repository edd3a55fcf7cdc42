//! Doing it: a plan is mapped, relocated, sealed and called into.

pub(crate) mod ahead;
pub(crate) mod call;
pub(crate) mod group;
pub(crate) mod index;
pub(crate) mod map;
pub(crate) mod numbers;
mod outcome;
pub(crate) mod relocate;
pub(crate) mod scope;
pub(crate) mod seal;
pub(crate) mod unique;
pub(crate) mod versions;
pub(crate) mod written;
