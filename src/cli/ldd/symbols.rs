//! What `-v`, `-r`, `-d` and `-u` add: versions, undefined symbols, and libraries that are not used.

use std::io::{self, Write};

use soload::{Bindings, Closure, Escaped, Rivals};

use super::Args;
use super::text::name;
use crate::cli::print::{Inks, plural};

/// For people, after the list of libraries.
pub(super) fn write(
    out: &mut impl Write,
    closure: &Closure,
    bindings: Option<&Bindings>,
    args: &Args,
    inks: Inks,
) -> io::Result<()> {
    let Inks { bad, dim, .. } = inks;
    if args.versions {
        for (index, object) in closure.objects.iter().enumerate() {
            for need in closure.version_uses(index) {
                let provider = need.provider.map_or("not found".into(), |provider| name(&closure.objects[provider]));
                let (file, version) = (Escaped(&need.file), Escaped(&need.version));
                let weak = if need.weak { " (weak)" } else { "" };
                writeln!(out, "version {version} of {file}{weak} => {provider}, needed by {}", name(object))?;
            }
        }
    }
    let Some(bindings) = bindings else { return Ok(()) };
    if args.function_relocs || args.data_relocs {
        // What may be missing stands apart, behind what may not.
        let (weak, strong): (Vec<_>, Vec<_>) = bindings.undefined.iter().partition(|reference| reference.weak);
        for reference in strong.iter().chain(&weak) {
            let (style, what) = if reference.weak { (dim, "undefined but weak") } else { (bad, "undefined") };
            write!(out, "{style}{what}: {}", Escaped(&reference.symbol))?;
            if let Some(version) = &reference.version {
                write!(out, "@{}", Escaped(version))?;
            }
            write!(out, "{style:#}, needed by {}", name(&closure.objects[reference.user]))?;
            if let Some(library) = &reference.expected_in {
                write!(out, ", expected in {}", Escaped(library))?;
            }
            writeln!(out)?;
        }
    }
    if args.unused {
        for index in &bindings.unused {
            writeln!(out, "unused: {}", name(&closure.objects[*index]))?;
        }
    }
    Ok(())
}

/// Symbols with several definitions: those that are not all alike one by one, the others by their number.
pub(super) fn write_rivals(out: &mut impl Write, closure: &Closure, rivals: &[Rivals], inks: Inks) -> io::Result<()> {
    let Inks { warn, dim, .. } = inks;
    let places =
        |objects: &[usize]| objects.iter().map(|object| name(&closure.objects[*object])).collect::<Vec<_>>().join(", ");
    for of in rivals.iter().filter(|rivals| !rivals.weak || !rivals.interposed.is_empty()) {
        write!(out, "{warn}defined twice: {}", Escaped(&of.symbol))?;
        if let Some(version) = &of.version {
            write!(out, "@{}", Escaped(version))?;
        }
        write!(out, "{warn:#} by {}, before {}", places(&of.objects[..1]), places(&of.objects[1..]))?;
        if !of.interposed.is_empty() {
            write!(out, "; not what they expect get {}", places(&of.interposed))?;
        }
        writeln!(out)?;
    }
    match rivals.iter().filter(|rivals| rivals.weak && rivals.interposed.is_empty()).count() {
        0 => Ok(()),
        alike => writeln!(
            out,
            "{dim}{} with weak definitions only, as those of templates are{dim:#}",
            plural(alike, "symbol")
        ),
    }
}

/// As glibc's `ldd` writes them.
pub(super) fn write_glibc(
    out: &mut impl Write,
    closure: &Closure,
    bindings: Option<&Bindings>,
    args: &Args,
) -> io::Result<()> {
    if let Some(bindings) = bindings.filter(|_| args.function_relocs || args.data_relocs) {
        for reference in bindings.undefined.iter().filter(|reference| !reference.weak) {
            let version = reference.version.as_ref().filter(|_| reference.version_is_traced);
            let version = version.map_or(String::new(), |version| format!(", version {}", Escaped(version)));
            let (symbol, user) = (Escaped(&reference.symbol), name(&closure.objects[reference.user]));
            writeln!(out, "undefined symbol: {symbol}{version}\t({user})")?;
        }
    }
    if args.versions && closure.is_dynamic() {
        let mut first = true;
        for (index, object) in closure.objects.iter().enumerate() {
            let uses = closure.version_uses(index);
            if uses.is_empty() {
                continue;
            }
            if std::mem::take(&mut first) {
                writeln!(out, "\n\tVersion information:")?;
            }
            writeln!(out, "\t{}:", name(object))?;
            for need in uses {
                let provider = need.provider.map_or("not found".into(), |provider| name(&closure.objects[provider]));
                let weak = if need.weak { "[WEAK] " } else { "" };
                writeln!(out, "\t\t{} ({}) {weak}=> {provider}", Escaped(&need.file), Escaped(&need.version))?;
            }
        }
    }
    let Some(bindings) = bindings.filter(|_| args.unused) else { return Ok(()) };
    // What is missing is not used either.
    let needs = closure.objects[0].needs.iter().map(|need| need.object);
    let unused = needs.filter(|index| bindings.unused.contains(index) || closure.objects[*index].path.is_none());
    for (number, index) in unused.enumerate() {
        if number == 0 {
            writeln!(out, "Unused direct dependencies:")?;
        }
        writeln!(out, "\t{}", name(&closure.objects[index]))?;
    }
    Ok(())
}
