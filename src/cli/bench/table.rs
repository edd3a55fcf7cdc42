//! The table of `--table`: the ratio of every library, and the mean of each class beside what is aimed at.

use std::io::{self, Write};

use comfy_table::{Cell, Color};

use super::list::{ALL, Aim, CLASSES, Class};
use super::report::{Mode, Report};
use super::statistics::geometric_mean;
use super::{Library, list};
use crate::cli::print::{self, BOLD, Size};

/// The report on `name` in that mode, if it was measured.
fn report<'a>(libraries: &'a [Library], name: &str, mode: Mode) -> Option<&'a Report> {
    let library = libraries.iter().find(|library| library.name == *name)?;
    library.measured.as_ref().ok()?.1.iter().find(|report| report.mode == mode)
}

/// The ratios of the loader over `members`.
fn mean(libraries: &[Library], members: &[&str], mode: Mode, loader: &str) -> Option<f64> {
    let ratios = members.iter().filter_map(|name| Some(report(libraries, name, mode)?.ratio(loader)?.value));
    geometric_mean(ratios)
}

pub(super) fn write(out: &mut impl Write, libraries: &[Library]) -> io::Result<()> {
    let loaders: Vec<&str> = libraries
        .iter()
        .filter_map(|library| library.measured.as_ref().ok())
        .flat_map(|(_, reports)| reports.iter().flat_map(|report| report.runs.iter().map(|run| &*run.name)))
        .fold(Vec::new(), |mut known, name| {
            if name != "dlopen" && !known.contains(&name) {
                known.push(name);
            }
            known
        });
    for (mode, title) in [(Mode::Own, "Own cost"), (Mode::Cold, "With all that it needs")] {
        let measured = libraries.iter().filter_map(|library| library.measured.as_ref().ok());
        if !measured.into_iter().any(|(_, reports)| reports.iter().any(|report| report.mode == mode)) {
            continue;
        }
        writeln!(out, "\n{BOLD}{title}{BOLD:#}, as a part of dlopen with RTLD_NOW\n")?;
        let mut header = vec!["class"];
        header.extend(&loaders);
        header.extend(["goal", "floor"]);
        let mut table = print::table(&header);
        for Class { name, members, own, cold } in &CLASSES {
            let aim = if mode == Mode::Own { own } else { cold };
            table.add_row(row(libraries, name, members, mode, &loaders, (*name != "others").then_some(*aim)));
            for member in *members {
                table.add_row(row(libraries, &format!("  {member}"), &[member], mode, &loaders, None));
            }
        }
        let aim = if mode == Mode::Own { ALL.0 } else { ALL.1 };
        table.add_row(row(libraries, "all", &list::libraries(), mode, &loaders, Some(aim)));
        print::align_right(&mut table, 1..header.len());
        print::write_table(out, &table)?;
    }
    write_more(out, libraries)?;
    let absent: Vec<_> = libraries.iter().filter(|library| library.measured.is_err()).collect();
    for library in &absent {
        writeln!(out, "\n  left out: {}", print::path(library.name.as_ref()))?;
    }
    Ok(())
}

fn row(
    libraries: &[Library],
    title: &str,
    members: &[&str],
    mode: Mode,
    loaders: &[&str],
    aim: Option<Aim>,
) -> Vec<Cell> {
    let mut cells = vec![Cell::new(title)];
    for loader in loaders {
        let ratio = mean(libraries, members, mode, loader);
        let cell = Cell::new(ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")));
        let limit = aim.map_or(1.0, |aim| aim.goal);
        cells.push(match ratio {
            Some(ratio) if *loader == "soload" && ratio > limit => cell.fg(Color::DarkRed),
            Some(_) if *loader == "soload" && aim.is_some() => cell.fg(Color::DarkGreen),
            _ => cell,
        });
    }
    cells.extend(aim.iter().flat_map(|aim| [aim.goal, aim.floor].map(|value| Cell::new(format!("{value:.2}")))));
    cells
}

/// Where soload needs more memory or more system calls than `dlopen`.
fn write_more(out: &mut impl Write, libraries: &[Library]) -> io::Result<()> {
    let reports = libraries.iter().filter_map(|library| Some((library, &library.measured.as_ref().ok()?.1)));
    let mut more = Vec::new();
    for (library, report) in reports.flat_map(|(library, reports)| reports.iter().map(move |report| (library, report)))
    {
        let (Some(soload), Some(dlopen)) = (report.of("soload"), report.of("dlopen")) else { continue };
        let place = format!("{} ({})", print::path(library.name.as_ref()), report.mode.name());
        if let (Some(ours), Some(theirs)) = (soload.private(), dlopen.private())
            && ours > theirs
        {
            more.push(format!("{place}: {} private, dlopen {}", Size(ours as u64), Size(theirs as u64)));
        }
        if let (Some(ours), Some(theirs)) = (soload.calls, dlopen.calls)
            && ours > theirs
        {
            more.push(format!("{place}: {ours} system calls, dlopen {theirs}"));
        }
    }
    if more.is_empty() {
        return writeln!(out, "\n  For no library soload has more private memory or system calls than dlopen.");
    }
    writeln!(out, "\n  More than dlopen:\n")?;
    more.iter().try_for_each(|line| writeln!(out, "    {line}"))
}
