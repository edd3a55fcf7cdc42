//! `soload compare`: which libraries dlopen loads and soload does not, each tried in a process of its own.
//!
//! JSON: `{"schema": 1, "command": "compare", "of_dlopen", "of_both", "failures": […], "extra": […], "neither": […]}`: the
//! numbers of libraries that dlopen loads and that both load; then those that only dlopen loads, that only soload loads,
//! and that neither loads, each with `library` and the reasons, `soload` and `dlopen` (`null`: loaded). A `library` that
//! is not UTF-8 is lossy; `library_bytes` has it in hexadecimal then.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use soload::Escaped;

use super::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use super::{Loading, Outcome, Status, children};

/// Compare soload with dlopen: which libraries does each load?
///
/// Loads each library with dlopen(RTLD_NOW) and with soload, each time in a process of its own. Fails if soload refuses
/// what dlopen loads; what it loads and dlopen does not is only told.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Libraries, or directories of which every *.so* file is taken; the system's library directory without this
    #[arg(value_name = "DIR|LIB")]
    places: Vec<PathBuf>,
    /// Also take the files of all directories below DIR
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Seconds after which a process that loads a library is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    loading: Loading,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also list the libraries that neither loads
    #[arg(short, long)]
    verbose: bool,
}

/// What a process that loads one library with one loader came to.
enum Answer {
    Loaded,
    Failed { reason: String, how: How },
}

/// How loading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Refused,
    /// The process crashed, hung, or ended without an answer.
    Died,
}

/// What became of one library.
struct Compared {
    library: PathBuf,
    dlopen: Answer,
    soload: Answer,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let usual = [children::usual_directory()];
    let places = if args.places.is_empty() { &usual[..] } else { &args.places };
    let mut libraries = BTreeSet::new();
    for place in places {
        if let Err(error) = children::collect(place, args.recursive, &mut libraries) {
            print::complain(format_args!("{}: {error}", print::path(place)));
            return Ok(Status::Failed);
        }
    }
    if libraries.is_empty() {
        print::complain("no file whose name has .so in these directories");
        return Ok(Status::Failed);
    }
    let compared = match try_all(args, &libraries.into_iter().collect::<Vec<_>>()) {
        Ok(compared) => compared,
        Err(error) => {
            print::complain(format_args!("cannot start processes: {error}"));
            return Ok(Status::Failed);
        }
    };
    let report = Report { compared: &compared };
    if args.json {
        print::write_json(out, &report.json())?
    } else {
        report.write(out, args.verbose)?
    }
    Ok(if report.count(Group::Failure) > 0 { Status::Failed } else { Status::Done })
}

/// Tries every library with both loaders, on all cores.
fn try_all(args: &Args, libraries: &[PathBuf]) -> io::Result<Vec<Compared>> {
    let command = std::env::current_exe()?;
    let both =
        |library: &Path| Ok((try_one(&command, args, library, "dlopen")?, try_one(&command, args, library, "soload")?));
    let compared = children::each(libraries, both)?.into_iter();
    Ok(compared.map(|(library, (dlopen, soload))| Compared { library, dlopen, soload }).collect())
}

/// Has a process of its own load `library` with one loader.
fn try_one(command: &Path, args: &Args, library: &Path, with: &str) -> io::Result<Answer> {
    let mut arguments: Vec<OsString> = ["load", "--json", "--with", with].map(OsString::from).into();
    if with == "soload" {
        arguments.extend(args.loading.typed());
    }
    arguments.extend(["--".into(), library.into()]);
    let (document, status) = match children::document(command, arguments, args.timeout, r#"{"command":"load""#)? {
        Ok(answer) => answer,
        Err(reason) => return Ok(Answer::died(reason)),
    };
    let library = &document["libraries"][0];
    if library["ok"] == true {
        return Ok(match status.success() {
            true => Answer::Loaded,
            false => Answer::died(format!("loaded, but ended with {status}")),
        });
    }
    let error = &library["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let needed_by = error["needed_by"].as_str().map(|user| format!(" (needed by {user})")).unwrap_or_default();
    Ok(Answer::Failed { reason: Escaped(format!("{message}{needed_by}").as_bytes()).to_string(), how: How::Refused })
}

impl Answer {
    fn died(reason: String) -> Self {
        Self::Failed { reason, how: How::Died }
    }
}

impl Compared {
    fn group(&self) -> Group {
        match (&self.dlopen, &self.soload) {
            (Answer::Loaded, Answer::Loaded) => Group::Both,
            (Answer::Loaded, Answer::Failed { .. }) => Group::Failure,
            (Answer::Failed { how: How::Refused, .. }, Answer::Loaded) => Group::Refused,
            (Answer::Failed { how: How::Died, .. }, Answer::Loaded) => Group::Died,
            (Answer::Failed { .. }, Answer::Failed { .. }) => Group::Neither,
        }
    }
}

/// The libraries by what became of them.
struct Report<'a> {
    compared: &'a [Compared],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Both,
    Failure,
    /// soload loads what dlopen refuses.
    Refused,
    /// soload loads what dlopen crashes on.
    Died,
    Neither,
}

impl<'a> Report<'a> {
    fn of(&self, group: Group) -> impl Iterator<Item = &'a Compared> {
        self.compared.iter().filter(move |compared| compared.group() == group)
    }

    fn count(&self, group: Group) -> usize {
        self.of(group).count()
    }

    fn of_dlopen(&self) -> usize {
        self.count(Group::Both) + self.count(Group::Failure)
    }

    fn write(&self, out: &mut impl Write, verbose: bool) -> io::Result<()> {
        let style = if self.count(Group::Failure) == 0 { GOOD } else { BAD };
        let (both, all) = (self.count(Group::Both), self.of_dlopen());
        writeln!(out, "soload loads {style}{both} of {all}{style:#} libraries that dlopen loads.")?;
        let lists = [
            (Group::Failure, BAD, "fail"),
            (Group::Refused, WARN, "more are loaded by soload, which dlopen refuses"),
            (Group::Died, WARN, "more are loaded by soload, on which dlopen crashes"),
            (Group::Neither, DIM, "more are loaded by neither"),
        ];
        for (group, style, what) in lists {
            let count = self.count(group);
            if count == 0 {
                continue;
            }
            if group == Group::Neither && !verbose {
                writeln!(out, "\n{style}{count}{style:#} {what}; --verbose lists them.")?;
                continue;
            }
            writeln!(out, "\n{style}{count}{style:#} {what}:\n")?;
            for Compared { library, dlopen, soload } in self.of(group) {
                writeln!(out, "  {BOLD}{}{BOLD:#}", print::path(library))?;
                for (loader, answer) in [("soload", soload), ("dlopen", dlopen)] {
                    if let Answer::Failed { reason, .. } = answer {
                        writeln!(out, "    {DIM}{loader}{DIM:#}  {reason}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let reason = |answer: &Answer| match answer {
            Answer::Loaded => Value::Null,
            Answer::Failed { reason, .. } => reason.as_str().into(),
        };
        let list = |groups: &[Group]| -> Value {
            let entry = |compared: &Compared| {
                let mut object = Map::new();
                print::put_path(&mut object, "library", &compared.library);
                object.insert("soload".into(), reason(&compared.soload));
                object.insert("dlopen".into(), reason(&compared.dlopen));
                Value::from(object)
            };
            groups.iter().flat_map(|group| self.of(*group)).map(entry).collect()
        };
        json!({
            "schema": 1,
            "command": "compare",
            "of_dlopen": self.of_dlopen(),
            "of_both": self.count(Group::Both),
            "failures": list(&[Group::Failure]),
            "extra": list(&[Group::Refused, Group::Died]),
            "neither": list(&[Group::Neither]),
        })
    }
}
