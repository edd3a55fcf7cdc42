//! Pages: which of them this process has to itself, and which it shares with others.

mod pages;

pub use pages::{Page, PageMap, PageState};
