//! The page map as a picture: SVG, and a page for a browser that tells of each cell section, symbol and reason.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};
use soload::{Image, PageSize, Vaddr};

use super::look::{Look, Seen};
use crate::cli::print::{self, Size};
use crate::cli::share::picture::xml;

/// What the file calls its parts.
pub(super) struct Names {
    sections: Vec<(String, Range<Vaddr>)>,
    symbols: Vec<(Vaddr, String)>,
}

impl Names {
    /// As far as the file has names.
    pub(super) fn read(path: &Path) -> Self {
        let text = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
        let image = Image::open(path).ok();
        let sections = image.as_ref().map(Image::sections).unwrap_or_default();
        let symbols = image.and_then(|image| image.exported_addresses().ok()).unwrap_or_default();
        Self {
            sections: sections.into_iter().map(|(name, range)| (text(name), range)).collect(),
            symbols: symbols.into_iter().map(|(at, name)| (at, text(name))).collect(),
        }
    }

    /// The first symbol of each page that has one: what a page can be known by.
    fn first_symbols(&self, page: PageSize) -> impl Iterator<Item = &(Vaddr, String)> {
        let mut last = None;
        self.symbols.iter().filter(move |(at, _)| last.replace(page.down(at.0)) != Some(page.down(at.0)))
    }
}

/// The picture's measures, in pixels.
struct Grid {
    columns: usize,
    step: usize,
}

const LEFT: usize = 28;
const INNER: usize = 924;
const WIDTH: usize = INNER + 2 * LEFT;
const ROW: usize = 22;
const BAR: usize = 14;

impl Grid {
    /// Cells as large as so many leave room for.
    fn of(pages: usize) -> Self {
        let step = match pages {
            0..2_000 => 11,
            2_000..8_000 => 7,
            _ => 5,
        };
        Self { columns: INNER / step, step }
    }
}

/// Its file's name, as text for XML.
fn name(seen: &Seen<'_>) -> String {
    xml(&printable(&print::path(seen.subject.path.file_name().unwrap_or_default().as_ref()).to_string()))
}

/// Without characters that XML has no way to write.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

fn sum(seen: &[Seen<'_>], wanted: impl Fn(Look) -> bool) -> u64 {
    seen.iter().map(|seen| seen.looks().filter(|look| wanted(*look)).count() as u64).sum()
}

/// What it comes to, in one sentence.
fn summary(seen: &[Seen<'_>]) -> String {
    let size = |pages: u64| Size(pages * PageSize::native().bytes());
    let all = size(sum(seen, |_| true));
    let present = size(sum(seen, |look| !matches!(look, Look::Untouched | Look::Swapped)));
    let own = size(sum(seen, Look::is_copy));
    format!("{all} mapped, {present} in memory, of which {own} are this process's own")
}

pub(super) fn svg(seen: &[Seen<'_>]) -> String {
    let process = seen.first().map_or(0, |seen| seen.subject.process);
    let title = match seen {
        [one] => name(one),
        all => format!("process {process}: {} files", all.len()),
    };
    let shown: Vec<_> = Look::ALL.into_iter().filter(|look| sum(seen, |other| other == *look) > 0).collect();
    let grid = Grid::of(sum(seen, |_| true) as usize);
    let mut body = String::new();
    let mut y = 74;
    bar(&mut body, seen, &shown, y);
    y += BAR + 12;
    for (index, look) in shown.iter().enumerate() {
        let (x, y) = (LEFT + index % 3 * (INNER / 3), y + index / 3 * ROW);
        let _ = write!(
            body,
            "<rect class=\"l{}\" x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"{}\" y=\"{}\"><tspan \
             class=\"b\">{}</tspan><tspan class=\"d\" dx=\"6\">{}</tspan></text>",
            class(*look),
            x + 19,
            y + 11,
            print::plural(sum(seen, |other| other == *look) as usize, "page"),
            look.name(),
        );
    }
    y += shown.len().div_ceil(3) * ROW + 14;
    for seen in seen {
        y = library(&mut body, seen, &grid, y, title != name(seen));
    }
    y += 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" \
         role=\"img\"><title>{title}: its pages in process {process}</title><style>text{{font-family:system-ui,sans-serif;\
         font-size:13px;fill:#1f2528}}.h{{font-size:22px;font-weight:650}}.n{{font-size:17px;font-weight:600}}\
         .b{{font-weight:600}}.d{{fill:#6a7378}}"
    );
    for look in Look::ALL {
        let _ = write!(svg, ".l{}{{fill:{}}}", class(look), look.legend().3);
    }
    let step = grid.step;
    let _ = write!(
        svg,
        "</style><defs><pattern id=\"g\" width=\"{step}\" height=\"{step}\" patternUnits=\"userSpaceOnUse\"><path d=\"M{step} \
         0V{step}H0\" fill=\"none\" stroke=\"#fff\" stroke-width=\"2\"/></pattern></defs><rect width=\"100%\" \
         height=\"100%\" fill=\"#fff\"/><text class=\"h\" x=\"{LEFT}\" y=\"38\">{title}</text><text class=\"d\" x=\"{LEFT}\" \
         y=\"60\">{}; one cell is a page of {}, in process {process}</text>",
        summary(seen),
        Size(PageSize::native().bytes()),
    );
    svg + &body + "</svg>\n"
}

fn class(look: Look) -> usize {
    Look::ALL.iter().position(|other| *other == look).unwrap_or(0)
}

/// All pages as one bar, by what they are.
fn bar(svg: &mut String, seen: &[Seen<'_>], shown: &[Look], y: usize) {
    let all = sum(seen, |_| true).max(1);
    let mut x = LEFT as f64;
    for look in shown {
        let width = sum(seen, |other| other == *look) as f64 / all as f64 * INNER as f64;
        let _ = write!(
            svg,
            "<rect class=\"l{}\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{BAR}\"><title>{}</title></rect>",
            class(*look),
            look.legend().1
        );
        x += width;
    }
}

/// One library's regions, side by side as far as they are small; answers where they end.
fn library(svg: &mut String, seen: &Seen<'_>, grid: &Grid, mut y: usize, with_name: bool) -> usize {
    if with_name {
        let _ = write!(svg, "<text x=\"{LEFT}\" y=\"{}\" class=\"n\">{}</text>", y + 22, name(seen));
        y += 32;
    }
    let (mut x, mut bottom) = (LEFT, y);
    for (region, looks) in &seen.regions {
        let copies = looks.iter().filter(|look| look.is_copy()).count();
        let copies = if copies > 0 { format!(", {copies} copied") } else { String::new() };
        let about = format!("{}, {}{copies}", region.before, print::plural(looks.len(), "page"));
        let label = (region.content.len() * 8 + about.len() * 7) + 8;
        let width = (looks.len().min(grid.columns) * grid.step).max(label);
        if x > LEFT && x + width > LEFT + INNER {
            (x, y) = (LEFT, bottom);
        }
        let _ = write!(
            svg,
            "<text x=\"{x}\" y=\"{}\"><tspan class=\"b\">{}</tspan><tspan class=\"d\" dx=\"8\">{about}</tspan></text>",
            y + 13,
            region.content,
        );
        let end = cells(svg, looks, grid, x, y + LABEL);
        bottom = bottom.max(end + 16);
        x += width + 28;
    }
    bottom
}

const LABEL: usize = 21;

/// The cells of one region; answers where they end.
fn cells(svg: &mut String, looks: &[Look], grid: &Grid, left: usize, top: usize) -> usize {
    let mut y = top;
    for line in looks.chunks(grid.columns) {
        let mut x = left;
        for run in line.chunk_by(|a, b| a == b) {
            let width = run.len() * grid.step;
            let _ = write!(
                svg,
                "<rect class=\"l{}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\"><title>{}: {}</title></rect>",
                class(run[0]),
                grid.step,
                print::plural(run.len(), "page"),
                run[0].legend().1
            );
            x += width;
        }
        y += grid.step;
    }
    // White lines make cells of the runs.
    let (width, height) = (looks.len().min(grid.columns) * grid.step, y - top);
    let _ = write!(
        svg,
        "<g transform=\"translate({left} {top})\"><rect width=\"{width}\" height=\"{height}\" fill=\"url(#g)\" \
         pointer-events=\"none\"/></g>"
    );
    y
}

/// What the script of the page needs to draw and to explain each cell.
fn data(seen: &[Seen<'_>], names: &[Names]) -> Value {
    let libraries = seen.iter().zip(names).map(|(seen, names)| {
        let subject = seen.subject;
        let regions = seen.regions.iter().map(|(region, looks)| {
            json!({
                "content": region.content,
                "protection": region.before.to_string(),
                "start": region.range.start.0,
                "pages": looks.iter().map(|look| look.legend().0).collect::<String>(),
            })
        });
        let sections = names.sections.iter().map(|(name, range)| json!([range.start.0, range.end.0, printable(name)]));
        let symbols = names.first_symbols(subject.forecast.page);
        let symbols = symbols.map(|(at, name)| json!([at.0, printable(name)]));
        let causes =
            subject.forecast.pages.keys().filter_map(|page| Some((page.0.to_string(), subject.causes(*page)?.into())));
        json!({
            "name": printable(&print::path(&subject.path).to_string()),
            "bias": subject.bias.get(),
            "regions": regions.collect::<Vec<_>>(),
            "sections": sections.collect::<Vec<_>>(),
            "symbols": symbols.collect::<Vec<_>>(),
            "causes": causes.collect::<Map<_, _>>(),
        })
    });
    let looks = Look::ALL.into_iter().map(|look| {
        let (letter, meaning, _, colour) = look.legend();
        json!([letter, meaning, colour])
    });
    json!({
        "page": PageSize::native().bytes(),
        "libraries": libraries.collect::<Vec<_>>(),
        "looks": looks.collect::<Vec<_>>(),
    })
}

pub(super) fn html(seen: &[Seen<'_>], names: &[Names]) -> String {
    let process = seen.first().map_or(0, |seen| seen.subject.process);
    let title = match seen {
        [one] => name(one),
        all => format!("Process {process}: {} files", all.len()),
    };
    // In a script, no text may end the script.
    let data = data(seen, names).to_string().replace('<', "\\u003c");
    include_str!("page.html")
        .replace("{{title}}", &title)
        .replace("{{process}}", &process.to_string())
        .replace("{{summary}}", &summary(seen))
        .replace("{{data}}", &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_its_first_symbol() {
        let names = [(0x1000, "a"), (0x1008, "b"), (0x3000, "c"), (0x3ff8, "d"), (0x4000, "e")];
        let symbols = names.map(|(at, name)| (Vaddr(at), name.to_owned())).into();
        let names = Names { sections: Vec::new(), symbols };
        let first = names.first_symbols(const { PageSize::new(4096).unwrap() });
        assert_eq!(first.map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a", "c", "e"]);
    }

    #[test]
    fn cells_shrink_as_their_number_grows() {
        let steps = [35, 5_000, 100_000].map(|pages| Grid::of(pages).step);
        assert!(steps[0] > steps[1] && steps[1] > steps[2]);
        assert!(steps.iter().all(|step| INNER / step * step <= INNER));
    }
}
