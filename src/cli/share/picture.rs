//! The same as a picture: SVG, and a page for a browser that needs nothing else.

use std::fmt::Write;
use std::path::Path;

use soload::PageSize;

use super::{Run, Segment, name};
use crate::cli::print::{self, Size};

const MARGIN: f64 = 28.0;
const LEFT: f64 = 180.0;
const BAR: f64 = 530.0;
const SEEN: f64 = 800.0;
const MEMORY: f64 = 880.0;
const FACTOR: f64 = WIDTH - MARGIN;
const WIDTH: f64 = 980.0;
const ROW: f64 = 31.0;
const PANEL_HEAD: f64 = 124.0;
const PANEL_FOOT: f64 = 26.0;
const TOP: f64 = 82.0;

const STYLE: &str = "text{font-family:system-ui,sans-serif;font-size:13px;fill:#1f2528}\
.h{font-size:22px;font-weight:650}.p{font-size:16px;font-weight:600}.k{font-size:24px;font-weight:650}.d{fill:#6a7378}\
.n{text-anchor:end}.f{fill:#2f8f6b}.c{fill:#e09a3b}.g{fill:#e4e8ea}";

/// Text that means nothing to a reader of XML.
pub(in crate::cli) fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn svg(path: &Path, runs: &[Run]) -> String {
    let file = xml(&print::path(path.file_name().unwrap_or_default().as_ref()).to_string());
    let height: f64 = TOP + runs.iter().map(panel_height).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\"><title>{file}: memory of several processes</title><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text class=\"h\" x=\"{MARGIN}\" y=\"38\">{file}</text>"
    );
    let legend = [
        ("f", "one page of memory for all"),
        ("c", "each process has its own"),
        ("g", "seen by others, costs nothing"),
    ];
    for (index, (class, text)) in legend.into_iter().enumerate() {
        let x = MARGIN + index as f64 * 225.0;
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"56\" width=\"13\" height=\"13\" rx=\"2\"/>\
             <text class=\"d\" x=\"{}\" y=\"67\">{text}</text>",
            x + 20.0
        );
    }
    // One scale for all panels, so that loaders can be compared by eye.
    let resident = |segment: &Segment| segment.sharing.resident;
    let most = runs.iter().flat_map(|run| &run.segments).map(resident).max().unwrap_or(1).max(1);
    let mut y = TOP;
    for run in runs {
        panel(&mut svg, run, y, most);
        y += panel_height(run);
    }
    svg + "</svg>\n"
}

fn shown(run: &Run) -> impl Iterator<Item = &Segment> {
    run.segments.iter().filter(|segment| segment.sharing.resident > 0)
}

fn panel_height(run: &Run) -> f64 {
    PANEL_HEAD + PANEL_FOOT + shown(run).count() as f64 * ROW
}

fn title(run: &Run) -> String {
    let count = run.processes.len();
    let processes = if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
    run.with.map_or(processes.clone(), |with| format!("{processes} with {}", name(with)))
}

fn size(pages: u64) -> Size {
    Size(pages * PageSize::native().bytes())
}

/// Numbers and what they are: what the processes see, what memory that takes, and what one more would add.
fn figures(run: &Run) -> [(String, &'static str); 3] {
    let total = run.total();
    let memory = if total.estimated { "of memory, by an estimate without root" } else { "of memory, by frame numbers" };
    [
        (size(total.resident).to_string(), "seen by the processes together"),
        (size(total.frames).to_string(), memory),
        (size(run.further()).to_string(), "more for each further process"),
    ]
}

fn summary(run: &Run) -> String {
    figures(run).map(|(number, what)| format!("{number} {what}")).join(", ")
}

fn panel(svg: &mut String, run: &Run, top: f64, most: u64) {
    let _ = write!(svg, "<text class=\"p\" x=\"{MARGIN}\" y=\"{}\">{}</text>", top + 30.0, xml(&title(run)));
    for (index, (number, what)) in figures(run).into_iter().enumerate() {
        let x = MARGIN + index as f64 * (WIDTH - 2.0 * MARGIN) / 3.0;
        let _ = write!(
            svg,
            "<text class=\"k\" x=\"{x:.1}\" y=\"{}\">{number}</text><text class=\"d\" x=\"{x:.1}\" y=\"{}\">{what}</text>",
            top + 66.0,
            top + 86.0
        );
    }
    for (x, what) in [(SEEN, "seen"), (MEMORY, "memory"), (FACTOR, "shared")] {
        let _ = write!(svg, "<text class=\"d n\" x=\"{x}\" y=\"{}\">{what}</text>", top + PANEL_HEAD - 8.0);
    }
    for (index, segment) in shown(run).enumerate() {
        let y = top + PANEL_HEAD + index as f64 * ROW;
        let sharing = &segment.sharing;
        let width = |pages: u64| pages as f64 / most as f64 * BAR;
        let own = sharing.own.min(sharing.frames);
        let shared = sharing.frames - own;
        let _ = write!(
            svg,
            "<g><title>{}: {} pages seen, {} frames, {} copied</title><text x=\"{MARGIN}\" y=\"{:.1}\">{}</text>",
            segment.content,
            sharing.resident,
            sharing.frames,
            sharing.copied,
            y + 16.0,
            segment.content,
        );
        let mut bar = |class: &str, from: u64, pages: u64| {
            if pages > 0 {
                let _ = write!(
                    svg,
                    "<rect class=\"{class}\" x=\"{:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"22\"/>",
                    LEFT + width(from),
                    width(pages).max(1.5),
                );
            }
        };
        bar("g", 0, sharing.resident);
        bar("f", 0, shared);
        bar("c", shared, own);
        let factor = format!("{:.1} ×", sharing.factor().unwrap_or(1.0));
        let numbers =
            [(SEEN, size(sharing.resident).to_string()), (MEMORY, size(sharing.frames).to_string()), (FACTOR, factor)];
        for (x, number) in numbers {
            let _ = write!(svg, "<text class=\"n\" x=\"{x}\" y=\"{:.1}\">{number}</text>", y + 16.0);
        }
        svg.push_str("</g>");
    }
}

pub(super) fn html(path: &Path, runs: &[Run]) -> String {
    let file = xml(&print::path(path).to_string());
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{file}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;\
         max-width:60rem;padding:0 1rem;color:#222}}svg{{max-width:100%;height:auto;margin-left:-28px}}table{{border-collapse:collapse;\
         margin:1rem 0}}td,th{{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #e6e9ec}}\
         td:first-child,th:first-child{{text-align:left;padding-left:0}}th{{font-weight:600;color:#666}}</style>\
         <h1>What one library costs several processes</h1><p><code>{file}</code></p>{}",
        svg(path, runs)
    );
    for run in runs {
        let count = run.processes.len() as u64;
        let _ = write!(
            page,
            "<h2>{}</h2><table><tr><th>segment<th>virtual<th>resident<th>frames<th>shared<th>copied<th>forecast</tr>",
            xml(&title(run))
        );
        for segment in &run.segments {
            let sharing = &segment.sharing;
            let _ = write!(
                page,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                segment.content,
                sharing.mapped,
                sharing.resident,
                sharing.frames,
                sharing.factor().map_or("–".into(), |factor| format!("{factor:.2} ×")),
                sharing.copied,
                segment.forecast.map_or("–".into(), |forecast| (forecast * count).to_string()),
            );
        }
        let _ = write!(page, "</table><p>{}.</p>", xml(&summary(run)));
    }
    page + "<p>Numbers are pages, summed over all processes, from <code>/proc/PID/pagemap</code>.</p></html>\n"
}
