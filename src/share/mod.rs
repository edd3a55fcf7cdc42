//! Pages: which of them this process has to itself, and which it shares with others.

mod forecast;
mod pages;

pub use forecast::{Cause, Forecast, Writes};
pub use pages::{Page, PageMap, PageState};
