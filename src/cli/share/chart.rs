//! The chart in the terminal: for each segment what the processes see, and what of it is really memory.

use std::io::{self, Write};

use super::Run;
use crate::cli::print::{DIM, GOOD, WARN};

const WIDTH: u64 = 62;

/// Cells of a bar: shared frames, copies, and what is seen but costs nothing.
#[derive(Debug, PartialEq, Eq)]
struct Bar {
    shared: usize,
    copied: usize,
    saved: usize,
}

impl Bar {
    /// The longest bar stands for `most` pages; whatever there is has at least one cell.
    fn of(shared: u64, copied: u64, resident: u64, most: u64) -> Self {
        let cells = |pages: u64| match pages {
            0 => 0,
            pages => (pages * WIDTH / most.max(1)).max(1) as usize,
        };
        let (shared, copied) = (cells(shared), cells(copied));
        Self { shared, copied, saved: cells(resident).saturating_sub(shared + copied) }
    }
}

pub(super) fn write(out: &mut impl Write, run: &Run) -> io::Result<()> {
    let most = run.segments.iter().map(|segment| segment.sharing.resident).max().unwrap_or(0);
    writeln!(out)?;
    for segment in run.segments.iter().filter(|segment| segment.sharing.resident > 0) {
        let sharing = &segment.sharing;
        let own = sharing.own.min(sharing.frames);
        let bar = Bar::of(sharing.frames - own, own, sharing.resident, most);
        let draw = |cell: &str, count: usize| cell.repeat(count);
        writeln!(
            out,
            "  {:22}{GOOD}{}{GOOD:#}{WARN}{}{WARN:#}{DIM}{}{DIM:#}",
            segment.content,
            draw("█", bar.shared),
            draw("█", bar.copied),
            draw("░", bar.saved),
        )?;
    }
    writeln!(
        out,
        "\n  {GOOD}█{GOOD:#} one page of memory for all   {WARN}█{WARN:#} each process has its own   \
         {DIM}░{DIM:#} seen by the others, costs nothing"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_little_there_is_can_be_seen_and_no_bar_is_too_long() {
        assert_eq!(Bar::of(1, 0, 1000, 1000), Bar { shared: 1, copied: 0, saved: 61 });
        assert_eq!(Bar::of(0, 1000, 1000, 1000), Bar { shared: 0, copied: 62, saved: 0 });
        assert_eq!(Bar::of(0, 0, 0, 0), Bar { shared: 0, copied: 0, saved: 0 });
    }
}
