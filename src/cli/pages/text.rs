//! The page map in a terminal: one library page by page, or a whole process, each library as a strip.

use std::io::{self, IsTerminal, Write};

use anstyle::{Color, Style};
use comfy_table::Cell;

use super::look::{Look, Seen};
use crate::cli::memory;
use crate::cli::print::{self, BOLD, DIM, WARN};

const WIDTH: usize = 72;
/// Cells of a strip: two lines of half blocks, or one of letters.
const STRIP: usize = 48;

pub(super) fn write_one(out: &mut impl Write, seen: &Seen<'_>) -> io::Result<()> {
    let blocks = shows_colours();
    let process = seen.subject.process;
    writeln!(out, "{BOLD}{}{BOLD:#} in process {process}, one cell a page\n", print::path(&seen.subject.path))?;
    for (region, looks) in &seen.regions {
        let count = |wanted: Look| looks.iter().filter(|look| **look == wanted).count();
        let counts = Look::ALL.into_iter().filter(|look| count(*look) > 0);
        let counts = counts.map(|look| format!("{} {}", count(look), look.name())).collect::<Vec<_>>().join(", ");
        writeln!(out, "  {BOLD}{}{BOLD:#}  {DIM}{} {counts}{DIM:#}", region.content, region.before)?;
        for line in looks.chunks(if blocks { 2 * WIDTH } else { WIDTH }) {
            write!(out, "    ")?;
            write_cells(out, line, WIDTH, blocks)?;
            writeln!(out)?;
        }
    }
    writeln!(out)?;
    write_legend(out, std::slice::from_ref(seen), blocks)
}

/// Every library of a process: numbers, and a strip from its first page to its last.
pub(super) fn write_all(out: &mut impl Write, seen: &[Seen<'_>], others: &[String]) -> io::Result<()> {
    let blocks = shows_colours();
    let Some(process) = seen.first().map(|seen| seen.subject.process) else { return Ok(()) };
    let libraries = if seen.len() == 1 { "1 file".to_owned() } else { format!("{} files", seen.len()) };
    writeln!(out, "{BOLD}Process {process}{BOLD:#}: {libraries} with code, in pages\n")?;
    let shown: Vec<_> = Look::ALL.into_iter().filter(|look| seen.iter().any(|seen| seen.count(*look) > 0)).collect();
    let mut header = vec!["file", "all"];
    header.extend(shown.iter().map(|look| look.name()));
    header.push("own KiB");
    let mut table = print::table(&header);
    let own = |seen: &Seen<'_>| seen.looks().filter(|look| look.is_copy()).count() as u64 * seen.subject.size() / 1024;
    for seen in seen {
        let name = seen.subject.path.file_name().unwrap_or_default();
        let mut cells =
            vec![Cell::new(shortened(&print::path(name.as_ref()).to_string())), Cell::new(seen.looks().count())];
        cells.extend(shown.iter().map(|look| memory::number_cell(seen.count(*look))));
        cells.push(memory::number_cell(own(seen) as usize));
        table.add_row(cells);
    }
    let sum = |look: Look| seen.iter().map(|seen| seen.count(look)).sum::<usize>();
    let mut cells = vec![Cell::new("total"), Cell::new(seen.iter().map(|seen| seen.looks().count()).sum::<usize>())];
    cells.extend(shown.iter().map(|look| memory::number_cell(sum(*look))));
    cells.push(memory::number_cell(seen.iter().map(own).sum::<u64>() as usize));
    table.add_row(cells);
    print::align_right(&mut table, 1..header.len());
    print::write_table(out, &table)?;
    writeln!(out, "\n  {DIM}Each from its first page to its last; a cell shows the costliest of its pages:{DIM:#}\n")?;
    for seen in seen {
        let name = seen.subject.path.file_name().unwrap_or_default();
        write!(out, "  {:30}  ", shortened(&print::path(name.as_ref()).to_string()))?;
        let looks: Vec<_> = seen.looks().collect();
        let cells = strip(&looks, if blocks { 2 * STRIP } else { STRIP });
        write_cells(out, &cells, cells.len().div_ceil(if blocks { 2 } else { 1 }), blocks)?;
        writeln!(out)?;
    }
    writeln!(out)?;
    for other in others {
        writeln!(out, "  {WARN}{other}{WARN:#}")?;
    }
    write_legend(out, seen, blocks)
}

/// A name that leaves room for what is beside it.
fn shortened(name: &str) -> String {
    const MAX: usize = 30;
    if name.chars().count() <= MAX {
        return name.into();
    }
    let end: String = name.chars().skip(name.chars().count() - 12).collect();
    format!("{}…{end}", name.chars().take(MAX - 13).collect::<String>())
}

/// At most `cells` cells, each for as many pages as the next.
fn strip(looks: &[Look], cells: usize) -> Vec<Look> {
    let cost = |look: &Look| Look::ALL.iter().position(|other| other == look);
    let each = looks.len().div_ceil(cells).max(1);
    looks.chunks(each).filter_map(|chunk| chunk.iter().copied().max_by_key(cost)).collect()
}

fn write_legend(out: &mut impl Write, seen: &[Seen<'_>], blocks: bool) -> io::Result<()> {
    for look in Look::ALL.into_iter().filter(|look| seen.iter().any(|seen| seen.count(*look) > 0)) {
        let (letter, meaning, colour, _) = look.legend();
        let style = Style::new().fg_color(Some(Color::Ansi(colour)));
        let mark = if blocks { '█' } else { letter };
        writeln!(out, "  {style}{mark}{style:#}  {meaning}")?;
    }
    let Some(subject) = seen.first().map(|seen| seen.subject) else { return Ok(()) };
    let how = if subject.knows_constructors() {
        "its copies were counted before and after constructors"
    } else {
        "relocation's copies by the forecast; constructors' are not told from later ones"
    };
    writeln!(out, "  {DIM}From /proc/{}/pagemap; {how}.{DIM:#}", subject.process)
}

/// Cells are told apart by colour alone, so only where there is some.
fn shows_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    set("CLICOLOR_FORCE") || (io::stdout().is_terminal() && !set("NO_COLOR"))
}

/// One line: letters, or two lines of cells as half blocks, of `width` cells each.
fn write_cells(out: &mut impl Write, looks: &[Look], width: usize, blocks: bool) -> io::Result<()> {
    if !blocks {
        return write!(out, "{}", looks.iter().map(|look| look.legend().0).collect::<String>());
    }
    let (upper, lower) = looks.split_at(looks.len().min(width));
    for (index, look) in upper.iter().enumerate() {
        let colour = |look: &Look| Some(Color::Ansi(look.legend().2));
        let style = Style::new().fg_color(colour(look)).bg_color(lower.get(index).and_then(colour));
        write!(out, "{style}▀{style:#}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_of_cells_become_one_of_half_blocks() {
        let mut out = Vec::new();
        write_cells(&mut out, &[Look::Shared; WIDTH * 2], WIDTH, true).unwrap();
        write_cells(&mut out, &[Look::Shared; 3], WIDTH, true).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().matches('▀').count(), WIDTH + 3);
    }

    #[test]
    fn a_cell_of_a_strip_shows_the_costliest_of_its_pages() {
        use Look::{Relocated, Shared, Untouched, Written};
        assert_eq!(strip(&[Shared, Untouched, Relocated, Written, Untouched], 3), [Shared, Written, Untouched]);
        assert_eq!(strip(&[Shared], 48), [Shared]);
        assert_eq!(strip(&[], 48), []);
        assert!(strip(&vec![Shared; 100_000], 48).len() <= 48);
    }

    #[test]
    fn long_names_keep_their_ends() {
        let short = shortened(&format!("lib{}.so.1.2.3", "x".repeat(60)));
        assert!(short.chars().count() == 30 && short.starts_with("libx") && short.ends_with(".so.1.2.3"), "{short}");
        assert_eq!(shortened("libz.so.1"), "libz.so.1");
    }
}
