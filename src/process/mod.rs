//! What lives in this process: objects the C library loaded, our modules, and who uses whom.

pub(crate) mod addresses;
mod called;
mod current;
pub(crate) mod debugger;
pub(crate) mod hooks;
pub(crate) mod host;
pub(crate) mod imports;
pub(crate) mod later;
pub(crate) mod lazy;
mod loaded;
pub(crate) mod module;
pub(crate) mod namespace;
pub(crate) mod newcomer;
pub(crate) mod parts;
pub(crate) mod real;
pub(crate) mod reason;
pub(crate) mod registry;
mod reserve;
pub(crate) mod scope;
mod settled;
pub(crate) mod start;
pub(crate) mod storage;
pub(crate) mod symbols;
mod tables;
pub(crate) mod unwind;
mod waits;
pub(crate) mod world;
