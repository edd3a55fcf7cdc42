//! `soload ldd`: what a program or library needs, as the loader will find it, without running any of it.

mod args;
mod custom;
mod dot;
mod files;
mod glibc;
mod json;
mod progress;
mod reverse;
mod symbols;
mod text;
pub(super) mod why;

use std::io::{self, Write};

use soload::{Bindings, Closure, Error, Resolver, Rivals};

use super::print::{self, Inks};
use super::{Outcome, Status};
pub(super) use args::Args;
use args::Format;
use files::Named;
use progress::Progress;
use text::Text;

/// What is told of one file.
struct Answer {
    closure: Closure,
    bindings: Option<Bindings>,
    rivals: Option<Vec<Rivals>>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (mut out, inks) = print::stdout()?;
    let mut progress = Progress::new(args.recursive || args.files.len() > 1);
    let resolver = match args.resolver() {
        Ok(resolver) => resolver,
        Err(error) => {
            progress.complain(&error);
            return Ok(Status::Usage);
        }
    };
    let mut worst = Status::Done;
    // Whether any file needs the library that was asked for.
    let mut needed = false;
    let several = args.recursive || args.files.len() > 1;
    let mut number = 0;
    for file in files::all(&args.files, args.recursive, &resolver) {
        progress.at(&file.path);
        let answer = answer(&file, args, &resolver);
        if answer.as_ref().is_err_and(|error| file.is_beside_the_point(error)) {
            continue;
        }
        number += 1;
        match &answer {
            Ok(answer) => match &args.reverse {
                Some(library) => {
                    needed |= reverse::write(&mut out, &file.path, &answer.closure, library, &resolver, args)?
                }
                None => {
                    if !answer.closure.is_complete() || args.fails(answer.bindings.as_ref()) {
                        worst = worst.max(Status::Failed);
                    }
                    write(&mut out, &file, answer, args, inks, several, number)?;
                }
            },
            Err(error) => {
                worst = Status::Usage;
                match args.format() {
                    Format::Json => print::write_json(&mut out, &json::of_error(error))?,
                    Format::Ldd if several => glibc::write_header(&mut out, error.object())?,
                    _ => {}
                }
            }
        }
        let problems: &[Error] = answer.as_ref().map_or(&[], |answer| &answer.closure.preload_problems);
        for error in problems.iter().chain(answer.as_ref().err()) {
            // In the order of what happened, if both go to the same terminal.
            out.flush()?;
            progress.complain(error);
        }
    }
    out.flush()?;
    if args.reverse.is_some() && !needed {
        worst = worst.max(Status::Failed);
    }
    Ok(worst)
}

fn answer(file: &Named, args: &Args, resolver: &Resolver) -> Result<Answer, Error> {
    let closure = match &args.as_loaded_by {
        Some(program) => resolver.resolve_in(&file.path, program)?,
        None => resolver.resolve(&file.path)?,
    };
    let bind = args.function_relocs || args.data_relocs || args.unused;
    let functions = args.function_relocs || args.unused;
    let bindings = if bind { Some(closure.bind(functions)?) } else { None };
    let rivals = if args.duplicates { Some(closure.rivals()?) } else { None };
    Ok(Answer { closure, bindings, rivals })
}

fn write(
    out: &mut impl Write,
    file: &Named,
    answer: &Answer,
    args: &Args,
    inks: Inks,
    several: bool,
    number: usize,
) -> io::Result<()> {
    let Answer { closure, bindings, rivals } = answer;
    match args.format() {
        Format::Ldd => {
            glibc::write(out, &file.path, closure, several, args.unused)?;
            symbols::write_glibc(out, closure, bindings.as_ref(), args)
        }
        Format::Dot => dot::write(out, closure),
        Format::Json => print::write_json(out, &json::of(&file.path, answer)),
        Format::Custom(format) => custom::write(out, format, closure, args.depth()),
        Format::Tree | Format::Flat => {
            if number > 1 && !(args.only_missing && closure.is_complete()) {
                writeln!(out)?;
            }
            let text = Text { closure, inks, depth: args.depth(), explain: args.explain };
            match (&args.why, args.format()) {
                (Some(name), _) => text.write_why(out, name.as_bytes())?,
                _ if args.only_missing => text.write_missing(out)?,
                (_, Format::Flat) => text.write_flat(out)?,
                _ => text.write_tree(out)?,
            }
            symbols::write(out, closure, bindings.as_ref(), args, inks)?;
            symbols::write_rivals(out, closure, rivals.as_deref().unwrap_or_default(), inks)
        }
    }
}
