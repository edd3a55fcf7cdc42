//! Runs real programs with the drop-in and without it, then twice with snapshots, and compares what they print and how
//! they end.
//!
//! ```text
//! cargo run --release --example programs [NAME…]
//! ```
//!
//! Each `.sh` file beside this one is a program: `# needs:` names commands and files it cannot do without, `prepare`
//! makes what it works on, `run` does the work, once on each loader, then while snapshots are made and while they are
//! used. The run with the drop-in must show by its log that soload loaded something. Needs no rights; started by root,
//! servers run as users of their own.

#[path = "../../tests/common/drop_in.rs"]
mod drop_in;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use drop_in::drop_in;

/// What became of a program.
enum Outcome {
    /// It did the same; so many libraries soload opened for it, and so many of those by a snapshot.
    Same(usize, usize),
    /// It cannot be run here.
    NotRun(String),
    Differs(String),
}

/// What one run gave.
#[derive(PartialEq)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn main() -> ExitCode {
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/programs");
    let mut scripts: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sh"));
    scripts.sort();
    let (mut same, mut not_run, mut differ) = (0, 0, 0);
    for script in &scripts {
        let name = script.file_stem().unwrap().to_string_lossy();
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        match compare(script) {
            Outcome::Same(loaded, shared) => {
                same += 1;
                println!("same     {name}: soload opened {loaded} libraries, {shared} of the last run's by a snapshot");
            }
            Outcome::NotRun(why) => {
                not_run += 1;
                println!("NOT RUN  {name}: {why}");
            }
            Outcome::Differs(how) => {
                differ += 1;
                println!("DIFFERS  {name}:\n{how}");
            }
        }
    }
    println!("the same: {same}, not the same: {differ}, not run: {not_run}");
    if differ + not_run == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn compare(script: &Path) -> Outcome {
    let text = fs::read_to_string(script).unwrap();
    let needs = text.lines().filter_map(|line| line.strip_prefix("# needs: ")).flat_map(str::split_whitespace);
    let missing: Vec<_> = needs.filter(|need| !is_there(need)).collect();
    if !missing.is_empty() {
        return Outcome::NotRun(format!("not installed: {}", missing.join(", ")));
    }
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    // Servers that root starts go on as somebody else.
    set_mode(folder.path(), 0o755);
    let made = place("made");
    fs::create_dir(&made).unwrap();
    let prepared = run(script, "prepare", &made, &made, None, None);
    if prepared.code != Some(0) {
        return Outcome::NotRun(format!("it could not be prepared: {}{}", prepared.out, prepared.err));
    }
    let log = place("log");
    fs::write(&log, "").unwrap();
    set_mode(&log, 0o666);
    // In one place after the other: paths that are printed are the same.
    let at = |log: Option<&Path>, snapshots: Option<&Path>| {
        let at = place("run");
        fs::create_dir(&at).unwrap();
        let ran = run(script, "run", &at, &made, log, snapshots);
        fs::remove_dir_all(&at).unwrap();
        ran
    };
    let host = at(None, None);
    let ours = at(Some(&log), None);
    if host.code != Some(0) {
        return Outcome::NotRun(format!("it fails without the drop-in, too: {}{}", host.out, host.err));
    }
    let said = fs::read_to_string(&log).unwrap();
    let loaded = said.lines().filter(|line| line.contains(": loaded ")).count();
    let failed: Vec<_> = said.lines().filter(|line| line.contains("not opened")).collect();
    if host != ours {
        let how = format!(
            "{:?} and {:?}\n{}{}",
            host.code,
            ours.code,
            lines(&host.out, &ours.out),
            lines(&host.err, &ours.err)
        );
        return Outcome::Differs(format!("{how}  not opened by soload:\n{}", failed.join("\n")));
    }
    if loaded == 0 {
        return Outcome::NotRun("it does the same, but loads nothing".into());
    }
    // Made in the first run, used in the second.
    let snapshots = place("snapshots");
    let mut shared = 0;
    for round in ["making", "using"] {
        fs::write(&log, "").unwrap();
        let with = at(Some(&log), Some(&snapshots));
        if host != with {
            let how = format!("{:?} and {:?}, {round} snapshots\n", host.code, with.code);
            return Outcome::Differs(how + &lines(&host.out, &with.out) + &lines(&host.err, &with.err));
        }
        shared = fs::read_to_string(&log).unwrap().matches("; by a snapshot;").count();
    }
    Outcome::Same(loaded, shared)
}

/// Whether a command or, if it has a slash, a file is there; `*` stands for anything in a name.
fn is_there(need: &str) -> bool {
    let test = if need.contains('/') { format!("ls -d {need}") } else { format!("command -v {need}") };
    let mut command = Command::new("bash");
    command.args(["-c", &test]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// Runs a function of the script, for five minutes at most, in `folder`; with the drop-in if there is a log for it.
fn run(script: &Path, function: &str, folder: &Path, made: &Path, log: Option<&Path>, snapshots: Option<&Path>) -> Ran {
    let mut command = Command::new("timeout");
    command.args(["300", "bash", "-euc", "source \"$0\"; \"$1\""]).arg(script).arg(function);
    command.current_dir(folder).env("MADE", made).env("PORT", port().to_string()).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).env_remove("LD_PRELOAD").env_remove("SOLOAD_LOG").env_remove("SOLOAD_SNAPSHOTS");
    if let Some(log) = log {
        command.env("LD_PRELOAD", drop_in()).env("SOLOAD_LOG", log);
    }
    if let Some(directory) = snapshots {
        command.env("SOLOAD_SNAPSHOTS", directory);
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A port of this machine's own that nobody uses; the same for all runs, as some print it.
fn port() -> u16 {
    use std::net::TcpListener;
    use std::sync::OnceLock;
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
}

/// The lines that only one of the two has.
fn lines(host: &str, ours: &str) -> String {
    let only = |sign: &'static str, these: &'_ str, those: &'_ str| {
        let those: Vec<_> = those.lines().collect();
        let only = these.lines().filter(|line| !those.contains(line)).take(20);
        only.map(|line| format!("  {sign} {line}\n")).collect::<String>()
    };
    only("without it:", host, ours) + &only("with it:   ", ours, host)
}
