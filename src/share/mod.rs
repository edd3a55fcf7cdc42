//! Pages: which of them a process has to itself, and which it shares with others.

mod experiment;
mod forecast;
mod mappings;
mod pages;
mod prove;
mod prove_cost;
mod prove_two;
mod scan;
mod sharing;
mod warm;

pub use forecast::{Cause, Forecast, Writes};
pub use mappings::Mapping;
pub use pages::{Page, PageMap, PageState};
pub use prove::{Claim, Proof, Verdict};
pub use scan::{PageRun, PageScan};
pub use sharing::Sharing;
pub use warm::{Warming, Warmth};
