//! `soload completions` and `soload man`: what shells and manual readers want to know of the command.

use std::io::Write;

use super::{Outcome, Status, definition, print};

/// Print the completions of a shell
///
/// For bash: `soload completions bash > ~/.local/share/bash-completion/completions/soload`
#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell that will read them
    shell: clap_complete::Shell,
}

/// Print a manual page
///
/// To read it: `soload man | man -l -`
#[derive(clap::Args)]
pub(super) struct Man {
    /// The subcommand that the page is about; the command itself without this
    subcommand: Option<String>,
}

pub(super) fn completions(args: &Completions, out: &mut impl Write) -> Outcome {
    // Written at once: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "soload", &mut text);
    out.write_all(&text)?;
    Ok(Status::Done)
}

pub(super) fn page(args: &Man, out: &mut impl Write) -> Outcome {
    let mut command = definition();
    // Gives subcommands the names of their pages: soload-load.
    command.build();
    let wanted = match &args.subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(subcommand) => subcommand.clone(),
            None => {
                print::complain(format_args!("no subcommand `{}`: see `soload --help`", name.escape_debug()));
                return Ok(Status::Usage);
            }
        },
    };
    clap_mangen::Man::new(wanted).render(out)?;
    Ok(Status::Done)
}
