//! `soload doctor`: what may be wrong with the libraries of a running process.
//!
//! JSON: `{"schema": 1, "command": "doctor", "processes": […]}`, for each process `process` and either `files` (looked at)
//! and `findings`, each with `path`, `kind` (`deleted`, `replaced`, `truncated`, `modified`, `private code`,
//! `executable stack`, `writable code`) and `what`, or `error`.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use soload::{ErrorKind, Mapping, PageMap, PageScan, PageSize, PageState};

use super::print::{self, BAD, BOLD, DIM, GOOD, WARN};
use super::{Outcome, Status};

/// Look at the libraries of running processes: replaced, deleted, changed or truncated files, and memory that is
/// writable and executable
///
/// Ends with 1 if there is something to report.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The processes
    #[arg(value_name = "PID", required = true, value_delimiter = ',')]
    processes: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Truncated,
    Modified,
    Deleted,
    Replaced,
    PrivateCode,
    WritableCode,
    ExecutableStack,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::PrivateCode => "private code",
            Self::WritableCode => "writable code",
            Self::ExecutableStack => "executable stack",
        }
    }

    /// Whether the process may crash by it, or be made to run something else.
    fn is_grave(self) -> bool {
        matches!(self, Self::Truncated | Self::Modified | Self::WritableCode | Self::ExecutableStack)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    kind: Kind,
    what: String,
}

/// What is at a file's path now.
#[derive(Clone, Copy)]
struct Now {
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    /// Not every file system tells.
    created: Option<SystemTime>,
}

/// How long whoever has created a file writes it, at most.
const WRITING_MAX: Duration = Duration::from_secs(10);

impl From<Metadata> for Now {
    fn from(meta: Metadata) -> Self {
        Self { inode: meta.ino(), size: meta.len(), modified: meta.modified().ok(), created: meta.created().ok() }
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    let mut documents = Vec::new();
    for process in &args.processes {
        let answer = examine(*process);
        if !matches!(&answer, Ok((_, findings)) if findings.is_empty()) {
            status = Status::Failed;
        }
        if args.json {
            documents.push(json_of(*process, &answer));
            continue;
        }
        match answer {
            Ok((files, findings)) => write_findings(out, *process, files, &findings)?,
            Err(error) => {
                out.flush()?;
                print::complain(format_args!("process {process}: {error}"));
            }
        }
    }
    if args.json {
        print::write_json(out, &json!({"schema": 1, "command": "doctor", "processes": documents}))?;
    }
    Ok(status)
}

/// How many files were looked at, and what there is to say of them.
fn examine(process: u32) -> Result<(usize, Vec<Finding>), ErrorKind> {
    let mappings = Mapping::all_of(process)?;
    let started = started(process);
    let mut files: BTreeMap<&Path, Vec<&Mapping>> = BTreeMap::new();
    for mapping in mappings.iter().filter(|mapping| mapping.inode != 0 && mapping.path.is_absolute()) {
        files.entry(&mapping.path).or_default().push(mapping);
    }
    // Data files are the program's own business.
    files.retain(|_, mappings| mappings.iter().any(|mapping| mapping.protection.execute));
    let mut findings = Vec::new();
    for (path, mappings) in &files {
        // As the process sees it, which may be in a container.
        let seen =
            Path::new("/proc").join(process.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path));
        findings.extend(of_file(path, mappings, fs::metadata(seen).ok().map(Now::from), started));
    }
    // Before Linux 6.7 page by page, which takes longer for large mappings.
    let scan = PageScan::of_process(process).ok();
    for mapping in mappings.iter().filter(|mapping| mapping.protection.execute) {
        findings.extend(of_code(mapping, copied(process, scan.as_ref(), mapping)?));
    }
    findings.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
    Ok((files.len(), findings))
}

/// What has become of a file since it was mapped.
fn of_file(path: &Path, mappings: &[&Mapping], now: Option<Now>, started: Option<SystemTime>) -> Option<Finding> {
    let finding = |kind, what: String| Some(Finding { path: path.to_owned(), kind, what });
    let Some(now) = now else {
        return finding(Kind::Deleted, "there is no such file any more; the process keeps the old one".into());
    };
    if mappings.iter().all(|mapping| mapping.deleted || mapping.inode != now.inode) {
        return finding(Kind::Replaced, "another file has that path now; the process keeps the old one".into());
    }
    let end = |mapping: &&Mapping| mapping.offset.0 + (mapping.range.end.0 - mapping.range.start.0) as u64;
    let mapped = mappings.iter().map(end).max().unwrap_or(0);
    if PageSize::native().up(now.size).is_some_and(|size| size < mapped) {
        return finding(
            Kind::Truncated,
            format!("{} of {mapped:#x} bytes are left: reading past them is SIGBUS", now.size),
        );
    }
    // Nothing tells when it was mapped, only that a file made since the start was mapped after that.
    let made = |started| now.created.filter(|created| *created > started)?.checked_add(WRITING_MAX);
    let known = started.map(|started| made(started).unwrap_or(started));
    if known.zip(now.modified).is_some_and(|(known, modified)| modified > known) {
        return finding(
            Kind::Modified,
            "written after the process started; if it was mapped by then, pages not copied have changed".into(),
        );
    }
    None
}

/// What is unusual about a mapping of code, of which so many pages are copies.
fn of_code(mapping: &Mapping, copied: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = if mapping.path.as_os_str().is_empty() { Path::new("[anonymous]") } else { &mapping.path };
    let mut note = |kind, what: String| findings.push(Finding { path: name.to_owned(), kind, what });
    if name == Path::new("[stack]") {
        note(Kind::ExecutableStack, format!("at {}", mapping.range.start));
    } else if mapping.protection.write {
        note(Kind::WritableCode, format!("writable and executable at {}", mapping.range.start));
    }
    if copied > 0 && mapping.inode != 0 {
        note(
            Kind::PrivateCode,
            format!(
                "{} of code copied: relocated, patched, or under a debugger",
                print::plural(copied as usize, "page")
            ),
        );
    }
    findings
}

fn copied(process: u32, scan: Option<&PageScan>, mapping: &Mapping) -> Result<u64, ErrorKind> {
    // The vsyscall page lies outside of what can be asked about.
    if mapping.inode == 0 {
        return Ok(0);
    }
    match scan {
        Some(scan) => scan.copied(mapping.range.clone()),
        None => Ok(PageMap::of_process(process, mapping.range.clone())?.count(PageState::Copied) as u64),
    }
}

/// When a process started, or a little later: what was written before is not to count as written since.
fn started(process: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may have blanks and parentheses; field 22 is counted from behind it (`proc_pid_stat(5)`).
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now();
    // Ticks of a second in /proc (`USER_HZ`): 100 on every machine that soload loads on. The last one had begun.
    let age = uptime - (ticks + 1) as f64 / 100.0;
    now.checked_sub(Duration::try_from_secs_f64(age.max(0.0)).ok()?)
}

fn write_findings(out: &mut impl Write, process: u32, files: usize, findings: &[Finding]) -> std::io::Result<()> {
    let files = print::plural(files, "file");
    if findings.is_empty() {
        return writeln!(out, "{GOOD}ok{GOOD:#}  process {process}: {files} with code, nothing to report");
    }
    writeln!(
        out,
        "{BOLD}process {process}{BOLD:#}: {files} with code, {}\n",
        print::plural(findings.len(), "finding")
    )?;
    for finding in findings {
        let style = if finding.kind.is_grave() { BAD } else { WARN };
        let what = soload::Escaped(finding.what.as_bytes());
        writeln!(
            out,
            "  {style}{:16}{style:#}  {}\n  {:16}  {DIM}{what}{DIM:#}",
            finding.kind.name(),
            print::path(&finding.path),
            ""
        )?;
    }
    writeln!(out)
}

fn json_of(process: u32, answer: &Result<(usize, Vec<Finding>), ErrorKind>) -> Value {
    match answer {
        Err(error) => json!({"process": process, "error": error.to_string()}),
        Ok((files, findings)) => {
            let findings = findings.iter().map(|finding| {
                let mut object = Map::new();
                print::put_path(&mut object, "path", &finding.path);
                object.insert("kind".into(), finding.kind.name().into());
                object.insert("what".into(), finding.what.as_str().into());
                Value::from(object)
            });
            json!({"process": process, "files": files, "findings": findings.collect::<Vec<_>>()})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn what_has_become_of_a_file_is_told_from_what_is_there_now() {
        let own = Mapping::all_of(std::process::id()).unwrap();
        let end = |mapping: &Mapping| mapping.offset.0 + (mapping.range.end.0 - mapping.range.start.0) as u64;
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        let large = |mapping: &&Mapping| mapping.inode != 0 && end(mapping) > PageSize::native().bytes();
        let mapping = own.iter().find(large).unwrap();
        let now = Now { inode: mapping.inode, size: end(mapping), modified: Some(at(100)), created: None };
        let kind = |now, started: Option<u64>| {
            of_file(&mapping.path, &[mapping], now, started.map(at)).map(|finding| finding.kind)
        };
        assert_eq!(kind(Some(now), Some(101)), None);
        assert_eq!(kind(Some(now), Some(99)), Some(Kind::Modified));
        assert_eq!(kind(Some(now), None), None);
        let made = |created| Some(Now { created: Some(at(created)), ..now });
        assert_eq!(kind(made(50), Some(60)), Some(Kind::Modified), "there before, and written since");
        assert_eq!(kind(made(100), Some(60)), None, "mapped after it was made");
        assert_eq!(kind(made(70), Some(60)), Some(Kind::Modified), "made, and written long after");
        assert_eq!(kind(None, Some(101)), Some(Kind::Deleted));
        assert_eq!(kind(Some(Now { inode: mapping.inode + 1, ..now }), Some(101)), Some(Kind::Replaced));
        assert_eq!(kind(Some(Now { size: 1, ..now }), Some(101)), Some(Kind::Truncated));
    }

    #[test]
    fn writable_code_and_executable_stacks_are_found() {
        let own = Mapping::all_of(std::process::id()).unwrap();
        let mut stack = own.iter().find(|mapping| mapping.path == Path::new("[stack]")).unwrap().clone();
        stack.protection.execute = true;
        assert_eq!(of_code(&stack, 5)[0].kind, Kind::ExecutableStack);
        let mut code = own.iter().find(|mapping| mapping.inode != 0 && mapping.protection.execute).unwrap().clone();
        assert!(of_code(&code, 0).is_empty());
        assert_eq!(of_code(&code, 1)[0].kind, Kind::PrivateCode);
        code.protection.write = true;
        assert_eq!(of_code(&code, 0)[0].kind, Kind::WritableCode);
    }

    #[test]
    fn what_was_written_just_before_a_process_started_was_not_written_since() {
        let written = tempfile::tempfile().unwrap().metadata().unwrap().modified().unwrap();
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let started = started(process.id()).unwrap();
        process.stdin.take();
        process.wait().unwrap();
        assert!(
            written <= started && started <= SystemTime::now() + Duration::from_millis(20),
            "{written:?} {started:?}"
        );
    }
}
