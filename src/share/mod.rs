//! Pages: which of them a process has to itself, and which it shares with others.

mod forecast;
mod mappings;
mod pages;
mod sharing;

pub use forecast::{Cause, Forecast, Writes};
pub use mappings::Mapping;
pub use pages::{Page, PageMap, PageState};
pub use sharing::Sharing;
