//! `soload inspect` for people.

use std::fmt::Display;
use std::io::{self, Write};

use soload::{ByteOrder, Cause, Class, Escaped, Outline, ProgramHeader};

use super::facts::{Contents, Extent, Facts, SearchDir, kind_of};
use crate::cli::memory;
use crate::cli::print::{self, BAD, BOLD, DIM, GOOD, WARN, plural};

pub(super) fn write(out: &mut impl Write, facts: &Facts<'_>) -> io::Result<()> {
    let path = print::path(facts.path);
    let Some(outline) = &facts.outline else { return writeln!(out, "{BOLD}{path}{BOLD:#}") };
    let kind = facts.contents.as_ref().map_or(kind_of(outline.elf_type), Contents::kind);
    let class = if outline.class == Class::Elf64 { "64-bit" } else { "32-bit" };
    let order = if outline.byte_order == ByteOrder::Little { "little-endian" } else { "big-endian" };
    writeln!(out, "{BOLD}{path}{BOLD:#}: {class} {order} ELF for {}, {kind}", outline.machine_name())?;
    match (&facts.contents, outline) {
        (Some(contents), _) => write_contents(out, contents),
        (None, Outline { program_headers: Ok(headers), .. }) => write_headers(out, headers),
        _ => Ok(()),
    }
}

/// One line: a name and what is said under it.
fn line(out: &mut impl Write, name: &str, text: impl Display) -> io::Result<()> {
    writeln!(out, "  {DIM}{name:12}{DIM:#}  {text}")
}

fn title(out: &mut impl Write, text: impl Display) -> io::Result<()> {
    writeln!(out, "\n{BOLD}{text}{BOLD:#}\n")
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn text(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

fn write_contents(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    write_identity(out, contents)?;
    if contents.is_debug_only() {
        line(out, "note", "the bytes of its segments are missing: it has the debug information of another file")?;
    }
    if let Some((plan, regions)) = &contents.plan {
        let pages = (plan.span.end.0 - plan.span.start.0) / plan.page.bytes();
        let size = print::Size(plan.page.bytes());
        title(out, format_args!("Plan: {} in {pages} pages of {size}", plural(plan.maps().len(), "mapping")))?;
        memory::write_plan(out, plan, regions)?;
        writeln!(out)?;
        let of_file = regions.iter().filter(|region| region.file.is_some());
        let of_file: u64 = of_file.map(|region| (region.range.end.0 - region.range.start.0) / plan.page.bytes()).sum();
        if let Some(private) = regions.iter().map(|region| region.forecast).sum::<Option<usize>>() {
            let size = print::Size(private as u64 * plan.page.bytes());
            let text = format!("relocation makes {private} of {of_file} pages of the file private, {size}");
            line(out, "forecast", text)?;
            let by_cause = |cause: Cause| {
                let pages: u64 = regions.iter().filter_map(|region| region.causes).map(|all| all[cause as usize]).sum();
                (pages > 0).then(|| format!("{pages} by {}", cause.name()))
            };
            let causes: Vec<_> = Cause::ALL.into_iter().filter_map(by_cause).collect();
            if !causes.is_empty() {
                line(out, "", format_args!("of these {} (a page may have several causes)", causes.join(", ")))?;
            }
        }
        for (size, extent) in &contents.other_page_sizes {
            let text = match extent {
                Some(Extent { pages, private: Some(private) }) => format!("{private} of {pages} would be private"),
                Some(Extent { pages, private: None }) => plural(*pages as usize, "page"),
                None => "cannot be mapped: segments share pages".into(),
            };
            line(out, "", format_args!("pages of {}: {text}", print::Size(size.bytes())))?;
        }
    }
    write_relocations(out, contents)?;
    write_versions(out, contents)?;
    write_hardening(out, contents)
}

fn write_identity(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    let image = &contents.image;
    let optional = [("soname", image.soname()), ("interpreter", image.interpreter())];
    for (name, value) in optional {
        if let Some(value) = value {
            line(out, name, Escaped(value))?;
        }
    }
    if let Some(id) = image.build_id() {
        line(out, "build id", print::hex(&id))?;
    }
    if image.needed().next().is_some() {
        wrapped(out, "needed", image.needed().map(text))?;
    }
    for (name, value) in [("rpath", image.rpath()), ("runpath", image.runpath())] {
        if let Some(value) = value {
            line(out, name, Escaped(value))?;
        }
    }
    if let Some(symbols) = contents.symbols.filter(|symbols| symbols.exported + symbols.imported > 0) {
        line(out, "symbols", format_args!("{} exported, {} imported", symbols.exported, symbols.imported))?;
    }
    if let Some(hash) = contents.hash.filter(|hash| hash.symbols > 0) {
        let kind = if hash.gnu { "GNU" } else { "System V, which no Bloom filter stands before" };
        let passed = if hash.gnu {
            format!(", {:.0} % of misses pass the filter", hash.passed_if_absent * 100.0)
        } else {
            String::new()
        };
        let (compared, longest) = (hash.compared_if_found, hash.longest_chain);
        line(out, "hash table", format_args!("{kind}; {compared:.2} compared for a hit, at most {longest}{passed}"))?;
    }
    let life = image.life_functions();
    if life.constructors + life.destructors > 0 {
        let (constructors, destructors) = (life.constructors as usize, life.destructors as usize);
        let destructors = plural(destructors, "destructor");
        line(out, "functions", format_args!("{}, {destructors}", plural(constructors, "constructor")))?;
    }
    if let Some((bytes, align)) = image.thread_local() {
        line(out, "thread-local", format_args!("{} in each thread, aligned to {align}", print::Size(bytes)))?;
    }
    let flags = image.loading_flags();
    if !flags.is_empty() {
        line(out, "flags", flags.join(", "))?;
    }
    Ok(())
}

/// A list under one name, on as many lines as it takes.
fn wrapped(out: &mut impl Write, name: &str, items: impl Iterator<Item = String>) -> io::Result<()> {
    const WIDTH: usize = 84;
    let (mut name, mut row) = (name, String::new());
    let mut items = items.peekable();
    while let Some(item) = items.next() {
        row += &item;
        match items.peek() {
            Some(next) if row.chars().count() + 2 + next.chars().count() < WIDTH => row += ", ",
            Some(_) => {
                line(out, name, format_args!("{row},"))?;
                (name, row) = ("", String::new());
            }
            None => line(out, name, &row)?,
        }
    }
    Ok(())
}

fn write_relocations(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    let Some(counts) = contents.relocations.as_ref().filter(|counts| !counts.is_empty()) else { return Ok(()) };
    let total: u64 = counts.iter().map(|count| count.count).sum();
    title(out, format_args!("Relocations: {total}"))?;
    let groups = contents.relocation_groups();
    line(out, "by kind", list(groups.iter().map(|(group, count)| format!("{count} {group}"))))?;
    wrapped(out, "by type", counts.iter().map(|count| format!("{} {}", count.count, count.name)))
}

fn write_versions(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    let needed = contents.versions_needed.as_deref().unwrap_or_default();
    let defined = contents.versions_defined.as_deref().unwrap_or_default();
    if needed.is_empty() && defined.is_empty() {
        return Ok(());
    }
    title(out, "Versions")?;
    if !defined.is_empty() {
        wrapped(out, "defined", defined.iter().map(|version| text(version)))?;
    }
    let mut name = "needed";
    for of_object in needed.chunk_by(|a, b| a.object == b.object) {
        let weak = |weak| if weak { " (weak)" } else { "" };
        let versions = of_object.iter().map(|need| text(&need.version) + weak(need.weak));
        let mut versions: Vec<_> = versions.collect();
        versions[0] = format!("{}: {}", Escaped(&of_object[0].object), versions[0]);
        wrapped(out, name, versions.into_iter())?;
        name = "";
    }
    Ok(())
}

fn write_hardening(out: &mut impl Write, contents: &Contents) -> io::Result<()> {
    let image = &contents.image;
    // What is not mapped needs no protection.
    if contents.plan.is_none() {
        return Ok(());
    }
    title(out, "Hardening")?;
    let good = |text: &str| format!("{GOOD}{text}{GOOD:#}");
    let warn = |text: &str| format!("{WARN}{text}{WARN:#}");
    let bad = |text: &str| format!("{BAD}{text}{BAD:#}");
    let position = match contents.is_position_independent() {
        true => good("position-independent"),
        false => warn("fixed address"),
    };
    let relro = match contents.relro() {
        "full" => good("full, everything is bound when it is loaded"),
        "partial" => warn("partial, linked for lazy binding"),
        _ => bad("none"),
    };
    let stack = match image.stack() {
        Some(stack) if stack.execute => bad("executable"),
        Some(_) => good("not executable"),
        None => bad("not stated (no PT_GNU_STACK), so executable on many machines"),
    };
    let both = match contents.writable_executable().as_slice() {
        [] => good("none writable and executable at once"),
        headers => {
            bad(&format!("writable and executable: program header {}", list(headers.iter().map(usize::to_string))))
        }
    };
    let text_relocations = match image.has_text_relocations() {
        false => good("not relocated"),
        true => bad("relocated (text relocations): its pages are written to, and no longer shared"),
    };
    let branches = image.branch_protection();
    line(out, "address", position)?;
    line(out, "RELRO", relro)?;
    line(out, "stack", stack)?;
    line(out, "segments", both)?;
    line(out, "code", text_relocations)?;
    line(
        out,
        "branches",
        if branches.is_empty() { "no protection stated".into() } else { good(&branches.join(", ")) },
    )?;
    if let Some(checks) = &contents.checks {
        let canary = if checks.stack_canary { good("checked by canaries") } else { "no canary, by its imports".into() };
        line(out, "frames", canary)?;
        let (checked, plain) = (checks.fortified.len(), checks.unfortified.len());
        if checked + plain > 0 {
            let text =
                format!("{checked} of {} functions that can be are called with a size to check", checked + plain);
            line(out, "fortified", if checked > 0 { good(&text) } else { text })?;
        }
    }
    for SearchDir { text, danger } in &contents.search_path {
        if let Some(danger) = danger {
            line(out, "search path", bad(&format!("`{}`: {danger}", Escaped(text))))?;
        }
    }
    Ok(())
}

/// The program headers of a damaged file, as they stand.
fn write_headers(out: &mut impl Write, headers: &[ProgramHeader]) -> io::Result<()> {
    title(out, "Program headers as they stand")?;
    let mut table = print::table(&["header", "type", "flags", "p_offset", "p_vaddr", "p_filesz", "p_memsz", "p_align"]);
    for header in headers {
        let hex = |number: u64| format!("{number:#x}");
        table.add_row([
            header.index.to_string(),
            type_name(header.kind),
            header.flags.to_string(),
            hex(header.offset),
            header.vaddr.to_string(),
            hex(header.file_size),
            hex(header.memory_size),
            hex(header.align),
        ]);
    }
    print::align_right(&mut table, [0, 3, 4, 5, 6, 7]);
    print::write_table(out, &table)
}

fn type_name(kind: u32) -> String {
    let name = match kind {
        0 => "NULL",
        1 => "LOAD",
        2 => "DYNAMIC",
        3 => "INTERP",
        4 => "NOTE",
        6 => "PHDR",
        7 => "TLS",
        0x6474_e550 => "GNU_EH_FRAME",
        0x6474_e551 => "GNU_STACK",
        0x6474_e552 => "GNU_RELRO",
        0x6474_e553 => "GNU_PROPERTY",
        other => return format!("{other:#x}"),
    };
    name.into()
}
