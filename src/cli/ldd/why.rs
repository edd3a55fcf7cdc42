//! `soload why`: how one symbol binds in a program or library, and which definitions of it lose.

use std::io::{self, Write};
use std::path::PathBuf;

use soload::{Escaped, Resolver};

use super::text::name;
use crate::cli::print::{self, Inks};
use crate::cli::{Outcome, Status};

/// Show how a symbol binds in a program or library: who defines it, and what each reference to it gets
///
/// Nothing of the files is run. Exit codes: 0 somebody defines it, 1 nobody does, 2 a file cannot be inspected.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The program or library that is started or loaded
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The symbol, perhaps with a version: `crypt`, `crypt@XCRYPT_2.0`
    symbol: String,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (mut out, Inks { bold, dim, good, bad, .. }) = print::stdout()?;
    let (symbol, version) = match args.symbol.split_once('@') {
        Some((symbol, version)) => (symbol, Some(version.trim_start_matches('@').as_bytes())),
        None => (args.symbol.as_str(), None),
    };
    let answer = Resolver::new().resolve(&args.file).and_then(|closure| {
        let trace = closure.trace(symbol.as_bytes(), version)?;
        Ok((closure, trace))
    });
    let (closure, trace) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let _ = writeln!(io::stderr(), "soload: {error}");
            return Ok(Status::Usage);
        }
    };
    let with_version = |version: &Option<Vec<u8>>| match version {
        Some(version) => format!("{}@{}", Escaped(symbol.as_bytes()), Escaped(version)),
        None => Escaped(symbol.as_bytes()).to_string(),
    };
    writeln!(out, "{bold}{}{bold:#} in the order in which objects are asked:", Escaped(args.symbol.as_bytes()))?;
    for definition in &trace.definitions {
        let users = trace.references.iter().filter(|(_, _, bound_to)| *bound_to == Some(definition.object));
        let users = users.count();
        let weak = if definition.weak { ", weak" } else { "" };
        let place = name(&closure.objects[definition.object]);
        let symbol = with_version(&definition.version);
        match users {
            0 => writeln!(out, "  {dim}{symbol}{dim:#} of {place}{weak}: no reference binds to this object")?,
            users => writeln!(out, "  {good}{symbol}{good:#} of {place}{weak}: {users} of the references below")?,
        }
    }
    if trace.definitions.is_empty() {
        writeln!(out, "  {bad}nobody defines it{bad:#}")?;
    }
    for (user, version, bound_to) in &trace.references {
        let user = name(&closure.objects[*user]);
        match bound_to {
            Some(object) => {
                writeln!(out, "{user} wants {} => {}", with_version(version), name(&closure.objects[*object]))?;
            }
            None => writeln!(out, "{user} wants {} => {bad}undefined{bad:#}", with_version(version))?,
        }
    }
    out.flush()?;
    Ok(if trace.definitions.is_empty() { Status::Failed } else { Status::Done })
}
