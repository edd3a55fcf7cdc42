//! The answer for people: a tree, a list in load order, how one library comes in, or what is missing.

use std::io::{self, Write};

use soload::{Closure, Escaped, Object, Role, Rule};

use crate::cli::print::{BAD, BOLD, DIM, NOTE, WARN, path};

pub(super) fn write_tree(out: &mut impl Write, closure: &Closure, depth: usize, explain: bool) -> io::Result<()> {
    write_root(out, closure)?;
    let mut shown = vec![false; closure.objects.len()];
    shown[0] = true;
    // What is to be written, the next at the end: object, depth, whether it is the last of its parent.
    let mut pending = Vec::new();
    let preloaded = |index: &usize| matches!(closure.objects[*index].role, Role::Preloaded { .. });
    let preloads = (1..closure.objects.len()).filter(preloaded);
    let first: Vec<usize> = preloads.chain(needs(closure, 0)).collect();
    if depth > 0 {
        push(&mut pending, &first, 0);
    }
    // For each level, whether more of it follows.
    let mut more: Vec<bool> = Vec::new();
    while let Some((index, level, is_last)) = pending.pop() {
        more.truncate(level);
        let mut indent = String::new();
        for follows in &more {
            indent.push_str(if *follows { "│   " } else { "    " });
        }
        let object = &closure.objects[index];
        let branch = if is_last { "└── " } else { "├── " };
        write!(out, "{DIM}{indent}{branch}{DIM:#}")?;
        write_object(out, object)?;
        let seen = std::mem::replace(&mut shown[index], true);
        let below: Vec<usize> = needs(closure, index).collect();
        if seen && !below.is_empty() {
            write!(out, " {DIM}(seen above){DIM:#}")?;
        }
        writeln!(out)?;
        more.push(!is_last);
        if explain && !seen {
            indent.push_str(if is_last { "    " } else { "│   " });
            write_places(out, object, &indent)?;
        }
        if !seen && level + 1 < depth {
            push(&mut pending, &below, level + 1);
        }
    }
    write_versions(out, closure)
}

fn push(pending: &mut Vec<(usize, usize, bool)>, objects: &[usize], level: usize) {
    let last = objects.len().wrapping_sub(1);
    pending.extend(objects.iter().enumerate().rev().map(|(place, index)| (*index, level, place == last)));
}

fn needs(closure: &Closure, index: usize) -> impl Iterator<Item = usize> {
    closure.objects[index].needs.iter().map(|need| need.object)
}

pub(super) fn write_flat(out: &mut impl Write, closure: &Closure, explain: bool) -> io::Result<()> {
    write_root(out, closure)?;
    for object in &closure.objects[1..] {
        write!(out, "    ")?;
        write_object(out, object)?;
        writeln!(out)?;
        if explain {
            write_places(out, object, "    ")?;
        }
    }
    write_versions(out, closure)
}

/// Only what is missing, each with who asks for it and where it was looked for; nothing if nothing is.
pub(super) fn write_missing(out: &mut impl Write, closure: &Closure, explain: bool) -> io::Result<()> {
    if closure.is_complete() {
        return Ok(());
    }
    write_root(out, closure)?;
    for object in closure.objects.iter().filter(|object| object.path.is_none()) {
        write!(out, "    ")?;
        write_object(out, object)?;
        if let Some(user) = object.loaded_by {
            write!(out, ", needed by {}", name(&closure.objects[user]))?;
        }
        writeln!(out)?;
        if explain {
            write_places(out, object, "    ")?;
        }
    }
    write_versions(out, closure)
}

/// Each object whose name holds `wanted`: the way from the root to it, and everybody who needs it.
pub(super) fn write_why(out: &mut impl Write, closure: &Closure, wanted: &[u8]) -> io::Result<()> {
    let holds = |text: &[u8]| !wanted.is_empty() && text.windows(wanted.len()).any(|part| part == wanted);
    let is_meant = |object: &Object| holds(&object.name) || object.soname().is_some_and(holds);
    let mut none = true;
    for (index, object) in closure.objects.iter().enumerate().skip(1).filter(|(_, object)| is_meant(object)) {
        none = false;
        let mut way = vec![index];
        way.extend(std::iter::successors(object.loaded_by, |link| closure.objects[*link].loaded_by));
        for (depth, link) in way.iter().rev().enumerate() {
            write!(out, "{:1$}", "", depth * 2)?;
            match *link {
                0 => write!(out, "{BOLD}{}{BOLD:#}", name(&closure.objects[0]))?,
                link => write_object(out, &closure.objects[link])?,
            }
            writeln!(out)?;
        }
        write_places(out, object, "  ")?;
        let users = closure.objects.iter().filter(|user| user.needs.iter().any(|need| need.object == index));
        for user in users {
            writeln!(out, "  {DIM}needed by{DIM:#} {}", name(user))?;
        }
    }
    if none {
        writeln!(out, "{}: needs no library called {}", name(&closure.objects[0]), Escaped(wanted))?;
    }
    Ok(())
}

fn write_root(out: &mut impl Write, closure: &Closure) -> io::Result<()> {
    write!(out, "{BOLD}{}{BOLD:#}", name(&closure.objects[0]))?;
    match &closure.interpreter {
        Some((interpreter, None)) => write!(out, " {DIM}(interpreter {}){DIM:#}", path(interpreter))?,
        Some((interpreter, Some(error))) => {
            write!(out, " {BAD}(interpreter {}: {error}){BAD:#}", path(interpreter))?;
        }
        None => {}
    }
    if closure.set_user_id {
        write!(out, " {WARN}(set-user-ID: run by others, it ignores LD_LIBRARY_PATH and LD_PRELOAD){WARN:#}")?;
    }
    if closure.is_static() {
        write!(out, " {DIM}statically linked{DIM:#}")?;
    }
    writeln!(out)
}

/// `NAME => PATH [rule]`, without a line end.
fn write_object(out: &mut impl Write, object: &Object) -> io::Result<()> {
    let name = Escaped(&object.name);
    match (&object.path, &object.fatal) {
        (_, Some(error)) => write!(out, "{BAD}{name} => {error}{BAD:#}")?,
        (None, None) => write!(out, "{BAD}{name} => not found{BAD:#}")?,
        (Some(place), _) if place.as_os_str().as_encoded_bytes() == object.name => write!(out, "{name}")?,
        (Some(place), _) => write!(out, "{name} => {}", path(place))?,
    }
    match (object.role, &object.rule) {
        (Role::Preloaded { by }, _) => write!(out, " {NOTE}[{by}]{NOTE:#}"),
        (Role::Loader, _) => write!(out, " {NOTE}[the loader itself]{NOTE:#}"),
        (_, Some(rule)) => write!(out, " {NOTE}[{rule}]{NOTE:#}"),
        _ => Ok(()),
    }
}

/// The item of the search path that led to it, as written and expanded, and the places where it was not.
fn write_places(out: &mut impl Write, object: &Object, indent: &str) -> io::Result<()> {
    for lost in &object.lost {
        let (rule, reason) = (Escaped(lost.rule.as_bytes()), Escaped(lost.reason.as_bytes()));
        writeln!(out, "{DIM}{indent}  ┊ not {}: {reason} [{rule}]{DIM:#}", path(&lost.path))?;
    }
    if let (Some(Rule::Rpath { item, .. } | Rule::Runpath { item, .. } | Rule::LibraryPath { item }), Some(place)) =
        (&object.rule, &object.path)
    {
        let item = Escaped(item.as_bytes());
        let directory = path(place.parent().unwrap_or(place));
        writeln!(out, "{DIM}{indent}  ┊ by the item \"{item}\", which is {directory}{DIM:#}")?;
    }
    Ok(())
}

fn write_versions(out: &mut impl Write, closure: &Closure) -> io::Result<()> {
    for problem in &closure.version_problems {
        let version = Escaped(&problem.version);
        let (user, provider) = (name(&closure.objects[problem.user]), name(&closure.objects[problem.provider]));
        let (style, what) = match (problem.unversioned, problem.fatal) {
            (true, _) => (WARN, "has no versions at all; the loader takes it with a warning"),
            (_, true) => (BAD, "does not define it"),
            _ => (WARN, "does not define it, which is allowed"),
        };
        writeln!(out, "{style}version {version}: {provider} {what}, needed by {user}{style:#}")?;
    }
    Ok(())
}

/// Where an object is, or what it is called.
pub(super) fn name(object: &Object) -> String {
    object.path.as_ref().map_or_else(|| Escaped(&object.name).to_string(), |place| path(place).to_string())
}
