//! The page map as a picture: SVG, and a page for a browser that tells of each cell section, symbol and reason.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use soload::{Image, Vaddr};

use super::{Look, Seen, causes};
use crate::cli::print;
use crate::cli::share::picture::xml;

const COLUMNS: usize = 96;
const STEP: usize = 9;
const LEFT: usize = 24;
const WIDTH: usize = LEFT * 2 + COLUMNS * STEP;
const TOP: usize = 116;
const HEAD: usize = 26;
const FOOT: usize = 16;

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

    /// The sections that have bytes in a page.
    fn sections_of(&self, page: &Range<Vaddr>) -> String {
        let inside = self.sections.iter().filter(|(_, range)| range.start < page.end && page.start < range.end);
        inside.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// The first symbol in a page, or the last one before it.
    fn symbol_of(&self, page: &Range<Vaddr>) -> Option<&str> {
        let next = self.symbols.partition_point(|(at, _)| *at < page.start);
        let inside = self.symbols.get(next).filter(|(at, _)| *at < page.end);
        inside.or_else(|| self.symbols.get(next.checked_sub(1)?)).map(|(_, name)| name.as_str())
    }
}

pub(super) fn svg(seen: &Seen, names: &Names) -> String {
    let file = xml(&print::path(seen.path.file_name().unwrap_or_default().as_ref()).to_string());
    let rows = |looks: &[Look]| looks.len().div_ceil(COLUMNS);
    let height = TOP + seen.regions.iter().map(|(_, looks)| HEAD + FOOT + rows(looks) * STEP).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\
         <title>{file}: its pages in process {}</title><style>text{{font-family:system-ui,sans-serif;font-size:13px;\
         fill:#222}}.h{{font-size:20px;font-weight:600}}.b{{font-weight:600}}.d{{fill:#666}}",
        seen.process
    );
    for (index, look) in Look::ALL.into_iter().enumerate() {
        let _ = write!(svg, ".l{index}{{fill:{}}}", look.legend().3);
    }
    let _ = write!(
        svg,
        "</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text class=\"h\" x=\"{LEFT}\" y=\"36\">{file}</text>"
    );
    for (index, look) in Look::ALL.into_iter().enumerate() {
        let (x, y) = (LEFT + index % 3 * 292, 54 + index / 3 * 22);
        let meaning = look.legend().1.split(": ").next().unwrap_or_default();
        let _ = write!(
            svg,
            "<rect class=\"l{index}\" x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" rx=\"2\"/>\
             <text class=\"d\" x=\"{}\" y=\"{}\">{meaning}</text>",
            x + 19,
            y + 11
        );
    }
    let mut y = TOP;
    for (region, looks) in &seen.regions {
        let _ = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\"><tspan class=\"b\">{}</tspan><tspan class=\"d\" dx=\"8\">{}, {}</tspan></text>",
            y + 15,
            region.content,
            region.before,
            print::plural(looks.len(), "page")
        );
        y += HEAD;
        for (index, look) in looks.iter().enumerate() {
            cell(&mut svg, seen, names, region.range.start, index, *look, y);
        }
        y += rows(looks) * STEP + FOOT;
    }
    svg + "</svg>\n"
}

fn cell(svg: &mut String, seen: &Seen, names: &Names, start: Vaddr, index: usize, look: Look, top: usize) {
    let size = seen.forecast.page.bytes();
    let at = Vaddr(start.0 + index as u64 * size);
    let page = at..Vaddr(at.0.saturating_add(size));
    let class = Look::ALL.iter().position(|other| *other == look).unwrap_or(0);
    let mut hover = format!("{at} {}\n{}", names.sections_of(&page), look.legend().1);
    if let Some(symbol) = names.symbol_of(&page) {
        let _ = write!(hover, "\nat or after {symbol}");
    }
    if let Some(causes) = causes(&seen.forecast, at) {
        let _ = write!(hover, "\nrelocation writes: {causes}");
    }
    let _ = write!(
        svg,
        "<rect class=\"l{class}\" x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\"><title>{}</title></rect>",
        LEFT + index % COLUMNS * STEP,
        top + index / COLUMNS * STEP,
        xml(&print_safe(&hover)),
        side = STEP - 1,
    );
}

/// Without characters that XML has no way to write.
fn print_safe(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

pub(super) fn html(seen: &Seen, names: &Names) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{file}</title><style>body{{font:15px/1.5 \
         system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}}svg{{max-width:100%;\
         height:auto}}rect:hover{{stroke:#222;stroke-width:1.5}}#t{{position:sticky;bottom:0;background:#fff;\
         border-top:1px solid #ccc;padding:.5rem 0;white-space:pre;min-height:6rem;font-family:ui-monospace,monospace;\
         font-size:13px}}</style><h1>The pages of a library in process {pid}</h1><p><code>{file}</code>. Point at a cell: \
         one cell is one page of {size} bytes.</p>{svg}<div id=\"t\"></div><script>document.querySelector('svg')\
         .addEventListener('mouseover',e=>{{const t=e.target.querySelector&&e.target.querySelector(':scope>title');\
         if(t&&e.target.tagName=='rect')document.getElementById('t').textContent=t.textContent}})</script></html>\n",
        file = xml(&print::path(&seen.path).to_string()),
        pid = seen.process,
        size = seen.forecast.page.bytes(),
        svg = svg(seen, names),
    )
}
