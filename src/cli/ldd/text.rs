//! The answer for people: a tree, a list in load order, how one library comes in, or what is missing.

use std::collections::VecDeque;
use std::io::{self, Write};

use soload::{Closure, Escaped, Object, Role, Rule};

use super::custom::why;
use crate::cli::print::{Inks, path};

/// One answer, how it is coloured, and how much of it is told.
pub(super) struct Text<'a> {
    pub(super) closure: &'a Closure,
    pub(super) inks: Inks,
    /// Needs are shown to this depth.
    pub(super) depth: usize,
    /// Whether to tell every place that was looked at.
    pub(super) explain: bool,
}

impl Text<'_> {
    pub(super) fn write_tree(&self, out: &mut impl Write) -> io::Result<()> {
        let closure = self.closure;
        let Inks { dim, .. } = self.inks;
        self.write_root(out)?;
        let mut shown = vec![false; closure.objects.len()];
        shown[0] = true;
        // What is to be written, the next at the end: object, depth, whether it is the last of its parent.
        let mut pending = Vec::new();
        let preloaded = |index: &usize| matches!(closure.objects[*index].role, Role::Preloaded { .. });
        let preloads = (1..closure.objects.len()).filter(preloaded);
        let first: Vec<usize> = preloads.chain(needs(closure, 0)).collect();
        if self.depth > 0 {
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
            write!(out, "{dim}{indent}{branch}{dim:#}")?;
            self.write_object(out, object)?;
            let seen = std::mem::replace(&mut shown[index], true);
            let below: Vec<usize> = needs(closure, index).collect();
            if seen && !below.is_empty() {
                write!(out, " {dim}(seen above){dim:#}")?;
            }
            writeln!(out)?;
            more.push(!is_last);
            if self.explain && !seen {
                indent.push_str(if is_last { "    " } else { "│   " });
                self.write_places(out, index, &indent)?;
            }
            if !seen && level + 1 < self.depth {
                push(&mut pending, &below, level + 1);
            }
        }
        self.write_versions(out)
    }

    pub(super) fn write_flat(&self, out: &mut impl Write) -> io::Result<()> {
        let closure = self.closure;
        self.write_root(out)?;
        // Nearly always all of them are, which takes no looking.
        let all = self.depth == usize::MAX && closure.objects.iter().all(|object| object.role != Role::Present);
        let shown = if all { vec![Some(0); closure.objects.len()] } else { depths(closure) };
        for (index, object) in closure.objects.iter().enumerate().skip(1) {
            if shown[index].is_none_or(|level| level > self.depth) {
                continue;
            }
            write!(out, "    ")?;
            self.write_object(out, object)?;
            writeln!(out)?;
            if self.explain {
                self.write_places(out, index, "    ")?;
            }
        }
        self.write_versions(out)
    }

    /// Only what is missing, each with who asks for it and where it was looked for; nothing if nothing is.
    pub(super) fn write_missing(&self, out: &mut impl Write) -> io::Result<()> {
        let closure = self.closure;
        if closure.is_complete() {
            return Ok(());
        }
        self.write_root(out)?;
        let missing = |object: &Object| !object.is_there() && !object.is_dispensable();
        for (index, object) in closure.objects.iter().enumerate().filter(|(_, object)| missing(object)) {
            write!(out, "    ")?;
            self.write_object(out, object)?;
            if let Some(user) = object.loaded_by {
                write!(out, ", needed by {}", name(&closure.objects[user]))?;
            }
            writeln!(out)?;
            if self.explain {
                self.write_places(out, index, "    ")?;
            }
        }
        self.write_versions(out)
    }

    /// Each object whose name holds `wanted`: the way from the root to it, and everybody who needs it.
    pub(super) fn write_why(&self, out: &mut impl Write, wanted: &[u8]) -> io::Result<()> {
        let closure = self.closure;
        let Inks { bold, dim, .. } = self.inks;
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
                    0 => write!(out, "{bold}{}{bold:#}", name(&closure.objects[0]))?,
                    link => self.write_object(out, &closure.objects[link])?,
                }
                writeln!(out)?;
            }
            self.write_places(out, index, "  ")?;
            let users = closure.objects.iter().filter(|user| user.needs.iter().any(|need| need.object == index));
            for user in users {
                writeln!(out, "  {dim}needed by{dim:#} {}", name(user))?;
            }
        }
        if none {
            writeln!(out, "{}: needs no library called {}", name(&closure.objects[0]), Escaped(wanted))?;
        }
        Ok(())
    }

    fn write_root(&self, out: &mut impl Write) -> io::Result<()> {
        let closure = self.closure;
        let Inks { bold, dim, bad, note, warn, .. } = self.inks;
        write!(out, "{bold}{}{bold:#}", name(&closure.objects[0]))?;
        match &closure.interpreter {
            Some((interpreter, None)) => write!(out, " {dim}(interpreter {}){dim:#}", path(interpreter))?,
            Some((interpreter, Some(error))) => {
                write!(out, " {bad}(interpreter {}: {error}){bad:#}", path(interpreter))?;
            }
            None => {}
        }
        if closure.set_user_id {
            write!(out, " {warn}(set-user-ID: run by others, it ignores LD_LIBRARY_PATH and LD_PRELOAD){warn:#}")?;
        }
        if closure.is_static() && closure.objects.len() == 1 {
            write!(out, " {dim}statically linked{dim:#}")?;
        }
        writeln!(out)?;
        for auditor in &closure.auditors {
            let (by, name) = (auditor.by, Escaped(&auditor.name));
            match &auditor.place {
                Ok(place) => writeln!(
                    out,
                    "{warn}auditor {name} => {}, which the loader runs before the program{warn:#} {note}[{by}]{note:#}",
                    path(place)
                )?,
                Err(error) => writeln!(
                    out,
                    "{dim}auditor {name}: {error}; the loader goes on without it{dim:#} {note}[{by}]{note:#}"
                )?,
            }
        }
        Ok(())
    }

    /// `NAME => PATH [rule]`, without a line end.
    fn write_object(&self, out: &mut impl Write, object: &Object) -> io::Result<()> {
        let Inks { bad, note, .. } = self.inks;
        let name = Escaped(&object.name);
        match (&object.path, &object.fatal) {
            (_, Some(error)) => write!(out, "{bad}{name} => {error}{bad:#}")?,
            (None, None) if object.is_dispensable() => write!(out, "{name} => not found")?,
            (None, None) => write!(out, "{bad}{name} => not found{bad:#}")?,
            (Some(place), _) if place.as_os_str().as_encoded_bytes() == object.name => write!(out, "{name}")?,
            (Some(place), _) => write!(out, "{name} => {}", path(place))?,
        }
        match why(object) {
            why if why.is_empty() => Ok(()),
            why => write!(out, " {note}[{why}]{note:#}"),
        }
    }

    /// The item of the search path that led to it, as written and expanded, and the places where it was not.
    fn write_places(&self, out: &mut impl Write, index: usize, indent: &str) -> io::Result<()> {
        let object = &self.closure.objects[index];
        let Inks { dim, note, .. } = self.inks;
        for lost in &object.lost {
            let (rule, reason) = (Escaped(lost.rule.as_bytes()), Escaped(lost.reason.as_bytes()));
            writeln!(out, "{dim}{indent}  ┊ not {}: {reason} [{rule}]{dim:#}", path(&lost.path))?;
        }
        if let (Some(Rule::Rpath { item, .. } | Rule::Runpath { item, .. } | Rule::LibraryPath { item }), Some(place)) =
            (&object.rule, &object.path)
        {
            let item = Escaped(item.as_bytes());
            let directory = path(place.parent().unwrap_or(place));
            writeln!(out, "{dim}{indent}  ┊ by the item \"{item}\", which is {directory}{dim:#}")?;
        }
        if let Some(hint) = self.closure.hint(index) {
            writeln!(out, "{indent}  {note}┊ help: {hint}{note:#}")?;
        }
        for text in object.may_open() {
            writeln!(out, "{dim}{indent}  ┊ may open at run time: {}{dim:#}", Escaped(text))?;
        }
        Ok(())
    }

    fn write_versions(&self, out: &mut impl Write) -> io::Result<()> {
        let closure = self.closure;
        let Inks { bad, warn, .. } = self.inks;
        for problem in &closure.version_problems {
            let version = Escaped(&problem.version);
            let (user, provider) = (name(&closure.objects[problem.user]), name(&closure.objects[problem.provider]));
            let (style, what) = match (problem.unversioned, problem.fatal) {
                (true, _) => (warn, "has no versions at all; the loader takes it with a warning"),
                (_, true) => (bad, "does not define it"),
                _ => (warn, "does not define it, which is allowed"),
            };
            writeln!(out, "{style}version {version}: {provider} {what}, needed by {user}{style:#}")?;
        }
        Ok(())
    }
}

fn push(pending: &mut Vec<(usize, usize, bool)>, objects: &[usize], level: usize) {
    let last = objects.len().wrapping_sub(1);
    pending.extend(objects.iter().enumerate().rev().map(|(place, index)| (*index, level, place == last)));
}

/// How far each object is from the file itself, by the shortest way; `None` if the file does not bring it in.
pub(super) fn depths(closure: &Closure) -> Vec<Option<usize>> {
    let mut depths = vec![None; closure.objects.len()];
    depths[0] = Some(0);
    let mut pending = VecDeque::from([0]);
    let preloaded = (0..depths.len()).filter(|index| matches!(closure.objects[*index].role, Role::Preloaded { .. }));
    for index in preloaded.collect::<Vec<_>>() {
        depths[index] = Some(1);
        pending.push_back(index);
    }
    while let Some(index) = pending.pop_front() {
        let level = depths[index].map(|level| level + 1);
        for below in needs(closure, index) {
            if depths[below].is_none() {
                depths[below] = level;
                pending.push_back(below);
            }
        }
    }
    depths
}

fn needs(closure: &Closure, index: usize) -> impl Iterator<Item = usize> {
    closure.objects[index].needs.iter().map(|need| need.object)
}

/// Where an object is, or what it is called.
pub(super) fn name(object: &Object) -> String {
    object.path.as_ref().map_or_else(|| Escaped(&object.name).to_string(), |place| path(place).to_string())
}
