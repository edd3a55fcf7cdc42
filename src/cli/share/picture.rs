//! The same as a picture: SVG, and a page for a browser that needs nothing else.

use std::fmt::Write;
use std::path::Path;

use soload::PageSize;

use super::{Run, Segment, name};
use crate::cli::print::{self, Size};

const LEFT: f64 = 190.0;
const BAR: f64 = 560.0;
const WIDTH: f64 = 940.0;
const ROW: f64 = 34.0;
const PANEL_HEAD: f64 = 62.0;
const PANEL_FOOT: f64 = 42.0;
const TOP: f64 = 84.0;

const STYLE: &str = "text{font-family:system-ui,sans-serif;font-size:13px;fill:#222}\
.h{font-size:20px;font-weight:600}.p{font-size:15px;font-weight:600}.d{fill:#666}.n{text-anchor:end}\
.f{fill:#2f8f6b}.c{fill:#dd8a2e}.g{fill:#e6e9ec}";

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
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text class=\"h\" x=\"24\" y=\"36\">{file}</text>"
    );
    let legend = [
        ("f", "one page of memory for all"),
        ("c", "each process has its own"),
        ("g", "seen by others, costs nothing"),
    ];
    for (index, (class, text)) in legend.into_iter().enumerate() {
        let x = 24.0 + index as f64 * 225.0;
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"52\" width=\"13\" height=\"13\" rx=\"2\"/>\
             <text class=\"d\" x=\"{}\" y=\"63\">{text}</text>",
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

fn summary(run: &Run) -> String {
    let total = run.total();
    let size = |pages: u64| Size(pages * PageSize::native().bytes());
    let how = if total.estimated { "an estimate without root" } else { "counted by frame numbers" };
    format!(
        "{} seen, {} of memory ({how}); each further process costs {}",
        size(total.resident),
        size(total.frames),
        size(run.further())
    )
}

fn panel(svg: &mut String, run: &Run, top: f64, most: u64) {
    let _ = write!(
        svg,
        "<text class=\"p\" x=\"24\" y=\"{}\">{}</text><text class=\"d n\" x=\"{}\" y=\"{}\">seen, in pages</text>\
         <text class=\"d n\" x=\"{}\" y=\"{}\">shared</text>",
        top + 30.0,
        xml(&title(run)),
        LEFT + BAR + 90.0,
        top + 30.0,
        WIDTH - 24.0,
        top + 30.0,
    );
    for (index, segment) in shown(run).enumerate() {
        let y = top + PANEL_HEAD - 18.0 + index as f64 * ROW;
        let sharing = &segment.sharing;
        let width = |pages: u64| pages as f64 / most as f64 * BAR;
        let copied = sharing.copied.min(sharing.frames);
        let shared = sharing.frames - copied;
        let _ = write!(
            svg,
            "<g><title>{}: {} pages seen, {} frames, {} copied</title><text x=\"24\" y=\"{:.1}\">{}</text>",
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
        bar("c", shared, copied);
        let _ = write!(
            svg,
            "<text class=\"n\" x=\"{}\" y=\"{:.1}\">{}</text><text class=\"n\" x=\"{}\" y=\"{:.1}\">{:.1} ×</text></g>",
            LEFT + BAR + 90.0,
            y + 16.0,
            sharing.resident,
            WIDTH - 24.0,
            y + 16.0,
            sharing.factor().unwrap_or(1.0),
        );
    }
    let _ = write!(
        svg,
        "<text class=\"d\" x=\"24\" y=\"{:.1}\">{}</text>",
        top + panel_height(run) - 26.0,
        xml(&summary(run))
    );
}

pub(super) fn html(path: &Path, runs: &[Run]) -> String {
    let file = xml(&print::path(path).to_string());
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{file}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;\
         max-width:60rem;padding:0 1rem;color:#222}}svg{{max-width:100%;height:auto}}table{{border-collapse:collapse;\
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
