//! The memory of one library, region by region: as it is planned, and what backs each page once it is loaded.
//!
//! In JSON a plan is `page_size`, `start`, `end` and `align` (bytes), and `regions`: for each `mapping` (the number of
//! its `mmap`; RELRO cuts one mapping into two regions), `start`, `end`, `file_offset` (`null`: zero pages),
//! `protection` (as mapped), `protection_after_relro`, `zeros_from` (from there to the end of the file's part, bytes are
//! zeroed), `content`, `forecast` (pages that relocation makes private), `by_cause` (of these, pages that each cause writes to) and, once loaded, `untouched`, `shared`,
//! `exclusive`, `copied` and `swapped` (pages).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use anstyle::Style;
use comfy_table::{Cell, Color, Table};
use serde_json::{Map, Value, json};
use soload::{
    Bias, Cause, ErrorKind, FileOffset, Forecast, Image, PageMap, PageSize, PageState, Plan, PlannedMap, Protection,
    Vaddr,
};

use super::print::{self, DIM, GOOD, NOTE, WARN};

/// Pages drawn in one line, and the most pages of a region that are drawn at all.
const DRAWN_WIDTH: usize = 26;
const DRAWN_MAX: usize = DRAWN_WIDTH * 8;

/// A part of a mapping in which all pages have the same protection from beginning to end.
pub(super) struct Region {
    mapping: usize,
    pub(super) range: Range<Vaddr>,
    pub(super) file: Option<FileOffset>,
    pub(super) before: Protection,
    after: Protection,
    /// From where on to its end it is zeros in a mapping that has other bytes of the file there.
    zeros_from: Option<Vaddr>,
    pub(super) content: &'static str,
    /// Pages that relocation makes private, if its tables could be read.
    pub(super) forecast: Option<usize>,
    /// Of these, pages that each cause writes to; one page may have several.
    pub(super) causes: Option<Causes>,
    /// What backs the pages, if it is loaded.
    pub(super) pages: Option<PageMap>,
}

impl Region {
    fn page_count(&self, plan: &Plan) -> u64 {
        (self.range.end.0 - self.range.start.0) / plan.page.bytes()
    }

    /// Pages in that state, once it is loaded.
    pub(super) fn count(&self, state: PageState) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.count(state))
    }
}

/// Pages that each cause writes to.
pub(super) type Causes = [u64; Cause::ALL.len()];

fn causes_in(forecast: &Forecast, range: &Range<Vaddr>) -> Causes {
    let mut counts = Causes::default();
    for (_, writes) in forecast.pages.range(range.clone()) {
        writes.causes().for_each(|cause| counts[cause as usize] += 1);
    }
    counts
}

pub(super) fn causes_json(counts: Causes) -> Value {
    Cause::ALL
        .into_iter()
        .map(|cause| (cause.name().to_owned(), counts[cause as usize].into()))
        .collect::<Map<_, _>>()
        .into()
}

/// The regions of a plan, in order of address.
pub(super) fn regions(plan: &Plan, forecast: Option<&Forecast>) -> Vec<Region> {
    let mut regions = Vec::with_capacity(plan.maps().len() + 1);
    for (mapping, map) in plan.maps().iter().enumerate() {
        let relro = plan.relro.clone().unwrap_or(map.range.start..map.range.start);
        let clamp = |at: Vaddr| at.clamp(map.range.start, map.range.end);
        let cuts = [map.range.start, clamp(relro.start), clamp(relro.end), map.range.end];
        for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
            let range = cut[0]..cut[1];
            let sealed = relro.contains(&range.start);
            let file = map.file.map(|offset| FileOffset(offset.0 + (range.start.0 - map.range.start.0)));
            let zeros = plan.zeros().iter().find(|zeros| map.file.is_some() && range.contains(&zeros.start));
            let content = match (map.protection, file) {
                (_, None) => "zeros",
                (Protection { execute: true, write: true, .. }, _) => "code and variables",
                (Protection { execute: true, .. }, Some(FileOffset(0))) => "headers, tables, code",
                (Protection { execute: true, .. }, _) => "code",
                (Protection { write: true, .. }, _) if sealed => "relocated constants",
                (Protection { write: true, .. }, _) => "variables",
                (Protection { read: false, .. }, _) => "nothing accessible",
                (_, Some(FileOffset(0))) => "headers and tables",
                _ => "constants",
            };
            regions.push(Region {
                mapping,
                file,
                before: map.protection,
                after: if sealed { Protection::READ } else { map.protection },
                zeros_from: zeros.map(|zeros| zeros.start),
                content,
                forecast: forecast.map(|forecast| forecast.count_in(&range)),
                causes: forecast.map(|forecast| causes_in(forecast, &range)),
                pages: None,
                range,
            });
        }
    }
    regions
}

/// Asks the kernel about every page of a library that has been loaded with that bias.
pub(super) fn measure(regions: &mut [Region], bias: Bias) -> Result<(), ErrorKind> {
    for region in regions {
        region.pages = Some(PageMap::of_range(bias.at(region.range.start)..bias.at(region.range.end))?);
    }
    Ok(())
}

/// The pages of a library that this process has copies of, of those mappings that are asked for.
pub(super) fn copied_pages(
    path: &Path,
    bias: Bias,
    wanted: impl Fn(&PlannedMap) -> bool,
) -> Result<BTreeSet<Vaddr>, String> {
    let mut pages = BTreeSet::new();
    let image = Image::open(path).map_err(|error| error.to_string())?;
    let plan = Plan::of(&image, PageSize::native()).map_err(|error| error.to_string())?;
    for map in plan.maps().iter().filter(|map| wanted(map)) {
        let range = bias.at(map.range.start)..bias.at(map.range.end);
        let measured = PageMap::of_range(range).map_err(|error| error.to_string())?;
        let states = measured.pages.iter().enumerate();
        let private = states.filter(|(_, page)| matches!(page.state, PageState::Copied | PageState::Swapped));
        pages.extend(private.map(|(index, _)| Vaddr(map.range.start.0 + index as u64 * plan.page.bytes())));
    }
    Ok(pages)
}

/// The mappings, with their protection before and after RELRO.
pub(super) fn write_plan(out: &mut impl Write, plan: &Plan, regions: &[Region]) -> io::Result<()> {
    let width = format!("{:x}", plan.span.end.0).len();
    let address = |at: Vaddr| format!("{:#0width$x}", at.0, width = width + 2);
    let mut table =
        print::table(&["addresses", "file offset", "pages", "mapped", "after RELRO", "forecast", "content"]);
    for region in regions {
        let offset = region.file.map_or_else(|| "-".into(), |offset| offset.to_string());
        table.add_row([
            Cell::new(format!("{}-{}", address(region.range.start), address(region.range.end))),
            Cell::new(offset),
            Cell::new(region.page_count(plan)),
            Cell::new(region.before),
            protection_cell(region),
            forecast_cell(region),
            Cell::new(region.content),
        ]);
    }
    print::align_right(&mut table, [1, 2, 5]);
    print::write_table(out, &table)?;
    for zeros in plan.zeros() {
        writeln!(out, "\n  The zero part begins at {}: the rest of that page is written, and so copied.", zeros.start)?;
    }
    Ok(())
}

fn protection_cell(region: &Region) -> Cell {
    let cell = Cell::new(region.after);
    match region.after {
        Protection { write: true, execute: true, .. } => cell.fg(Color::DarkRed),
        after if after != region.before => cell.fg(Color::DarkGreen),
        _ => cell,
    }
}

/// A number of pages; none is nothing to look at.
pub(super) fn number_cell(count: usize) -> Cell {
    if count == 0 { Cell::new("-").add_attribute(comfy_table::Attribute::Dim) } else { Cell::new(count) }
}

pub(super) fn forecast_cell(region: &Region) -> Cell {
    region.forecast.map_or_else(|| Cell::new("?"), number_cell)
}

/// Letter, style, and what it means.
const LEGEND: [(PageState, char, Style, &str); 5] = [
    (PageState::Untouched, '.', DIM, "untouched: addresses without memory"),
    (PageState::Shared, 's', GOOD, "shared: a page of the file that other processes have mapped too"),
    (PageState::Exclusive, 'e', NOTE, "exclusive: a page of the file that only this process has mapped now"),
    (PageState::Copied, 'C', WARN, "copied: memory of this process alone"),
    (PageState::Swapped, 'z', WARN, "swapped: a copy, moved out of memory"),
];

/// The pages of each region by what backs them, and one letter for each page.
pub(super) fn write_pages(out: &mut impl Write, regions: &[Region]) -> io::Result<()> {
    let mut table = print::table(&["content", "untouched", "shared", "exclusive", "copied", "forecast"]);
    for region in regions {
        let copied = region.count(PageState::Copied) + region.count(PageState::Swapped);
        table.add_row([
            Cell::new(region.content),
            number_cell(region.count(PageState::Untouched)),
            number_cell(region.count(PageState::Shared)),
            number_cell(region.count(PageState::Exclusive)),
            number_cell(copied),
            forecast_cell(region),
        ]);
    }
    print::align_right(&mut table, 1..6);
    let mut lines = table.lines();
    if let Some(header) = lines.next() {
        writeln!(out, "  {header}{DIM}page by page{DIM:#}")?;
    }
    for (line, region) in lines.zip(regions) {
        write!(out, "  {line}")?;
        draw(out, region, 2 + table_width(&table))?;
    }
    let drawn = |state: PageState| regions.iter().any(|region| region.count(state) > 0);
    writeln!(out)?;
    for (_, letter, style, meaning) in LEGEND.into_iter().filter(|(state, ..)| drawn(*state)) {
        writeln!(out, "  {style}{letter}{style:#}  {meaning}")?;
    }
    Ok(())
}

fn table_width(table: &Table) -> usize {
    table.column_max_content_widths().iter().map(|width| usize::from(*width) + 2).sum()
}

fn draw(out: &mut impl Write, region: &Region, indent: usize) -> io::Result<()> {
    let pages = region.pages.as_ref().map_or(&[][..], |map| &map.pages);
    if pages.len() > DRAWN_MAX {
        return writeln!(out, "{DIM}({} pages){DIM:#}", pages.len());
    }
    for (number, line) in pages.chunks(DRAWN_WIDTH).enumerate() {
        if number > 0 {
            write!(out, "{:indent$}", "")?;
        }
        for run in line.chunk_by(|a, b| a.state == b.state) {
            if let Some((_, letter, style, _)) = LEGEND.iter().find(|(state, ..)| *state == run[0].state) {
                write!(out, "{style}{}{style:#}", letter.to_string().repeat(run.len()))?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Pages copied of those that a file is behind: what the forecast speaks of.
pub(super) fn copied_of_file(regions: &[Region]) -> usize {
    let of_file = regions.iter().filter(|region| region.file.is_some());
    of_file.map(|region| region.count(PageState::Copied) + region.count(PageState::Swapped)).sum()
}

/// The plan and what became of it; the head of this file explains it.
pub(super) fn json_of(plan: &Plan, regions: &[Region]) -> Value {
    let regions = regions.iter().map(|region| {
        let mut object = json!({
            "mapping": region.mapping,
            "start": region.range.start.0,
            "end": region.range.end.0,
            "file_offset": region.file.map(|offset| offset.0),
            "protection": region.before.to_string(),
            "protection_after_relro": region.after.to_string(),
            "zeros_from": region.zeros_from.map(|from| from.0),
            "content": region.content,
            "forecast": region.forecast,
            "by_cause": region.causes.map(causes_json),
        });
        if region.pages.is_some() {
            object["untouched"] = region.count(PageState::Untouched).into();
            object["shared"] = region.count(PageState::Shared).into();
            object["exclusive"] = region.count(PageState::Exclusive).into();
            object["copied"] = region.count(PageState::Copied).into();
            object["swapped"] = region.count(PageState::Swapped).into();
        }
        object
    });
    json!({
        "page_size": plan.page.bytes(),
        "start": plan.span.start.0,
        "end": plan.span.end.0,
        "align": plan.align.bytes(),
        "regions": regions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use soload::{Image, PageSize};

    use super::*;

    #[test]
    fn regions_cover_the_mappings_and_relro_cuts_one() {
        let image = Image::open("/proc/self/exe".as_ref()).unwrap();
        let plan = Plan::of(&image, PageSize::native()).unwrap();
        let forecast = Forecast::of(&image, &plan).unwrap();
        let regions = regions(&plan, Some(&forecast));
        for (mapping, map) in plan.maps().iter().enumerate() {
            let of_map: Vec<_> = regions.iter().filter(|region| region.mapping == mapping).collect();
            assert_eq!(of_map.first().unwrap().range.start, map.range.start);
            assert_eq!(of_map.last().unwrap().range.end, map.range.end);
            assert!(of_map.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
        }
        let sealed: Vec<_> = regions.iter().filter(|region| region.after != region.before).collect();
        assert_eq!(sealed.iter().map(|region| region.range.clone()).collect::<Vec<_>>(), [plan.relro.unwrap()]);
        assert_eq!(regions.iter().filter_map(|region| region.forecast).sum::<usize>(), forecast.pages.len());
    }
}
