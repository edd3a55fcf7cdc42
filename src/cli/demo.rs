//! The demonstration plugin, compiled from `test-libs/demo.c` and built into the command.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};

use soload::{Error, Library, PageState, Plan};

use super::call::{self, Type, Value};
use super::load::{self, Loaded};
use super::memory::{self, Region};
use super::print::{self, BOLD, GOOD, WARN};
use super::{Loading, Outcome, Status};

const PLUGIN: &[u8] = include_bytes!(env!("SOLOAD_DEMO"));

/// The plugin as a file, which is removed when this is dropped.
pub(super) struct Plugin {
    folder: tempfile::TempDir,
}

impl Plugin {
    /// Writes the file; says why not, if it cannot.
    pub(super) fn write() -> Option<Self> {
        if PLUGIN.is_empty() {
            print::complain(
                "no demonstration plugin: soload was built without test-libs/, as from the published package; \
                 name a library, such as `soload load libz.so.1`",
            );
            return None;
        }
        let written = tempfile::Builder::new().prefix("soload-").tempdir().and_then(|folder| {
            let plugin = Self { folder };
            std::fs::write(plugin.path(), PLUGIN).map(|()| plugin)
        });
        written
            .inspect_err(|error| print::complain(format_args!("cannot write the demonstration plugin: {error}")))
            .ok()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("libdemo.so")
    }
}

/// The library that was asked for, or else the plugin; the file of that is there as long as the second value.
pub(super) fn asked(library: Option<&OsString>) -> Option<(OsString, Option<Plugin>)> {
    match library {
        Some(library) => Some((library.clone(), None)),
        None => Plugin::write().map(|plugin| (plugin.path().into_os_string(), Some(plugin))),
    }
}

/// A call of the plugin: its function, the arguments, and the type of its result.
type Example = (&'static str, Vec<Value>, Type);

/// What is called to show that it works; each touches another part of the plugin.
fn examples() -> [Example; 4] {
    [
        ("demo_greeting", vec![], Type::Str),
        ("demo_add", vec![Value::I32(2), Value::I32(40)], Type::I32),
        ("demo_scale", vec![Value::F64(1.5), Value::F64(4.0)], Type::F64),
        ("demo_letter", vec![Value::U32(2)], Type::Char),
    ]
}

/// Calls all examples; gives a line for each, as it would be typed, with the result.
pub(super) fn call_examples(library: &Library) -> Result<Vec<String>, Error> {
    let calls = examples().into_iter().map(|(symbol, values, result)| {
        let address = call::find(library, symbol.as_ref(), None)?;
        // SAFETY: the types are those in `test-libs/demo.c`.
        let answer = unsafe { call::call(address, &values, result) };
        let values: String = values.iter().map(|value| value.typed() + " ").collect();
        Ok(format!("{:40}  {answer}", format!("{symbol} {values}--ret {result}")))
    });
    calls.collect()
}

/// Loads the plugin, calls it, and shows all there is to see.
pub(super) fn show(loading: &Loading, as_json: bool, out: &mut impl Write) -> Outcome {
    let Some(plugin) = Plugin::write() else { return Ok(Status::Failed) };
    let path = plugin.path();
    // Whether pages are shared shows only if there is somebody to share them with.
    let second = Companion::start(&path);
    let answer = load::with_soload(path.as_os_str(), loading, true, call_examples);
    if as_json {
        let answer = answer.map(|(loaded, _)| loaded);
        let status = if answer.is_ok() { Status::Done } else { Status::Failed };
        print::write_json(out, &load::document("soload", vec![load::json_of(path.as_os_str(), &answer)]))?;
        return Ok(status);
    }
    match answer {
        Ok((loaded, calls)) => {
            write_all(out, &loaded, &calls, second.is_some())?;
            Ok(Status::Done)
        }
        Err(refused) => {
            load::complain_of(&refused);
            Ok(Status::Failed)
        }
    }
}

fn write_all(out: &mut impl Write, loaded: &Loaded, calls: &[String], second: bool) -> io::Result<()> {
    let path = print::path(&loaded.path);
    writeln!(out, "{BOLD}Loaded{BOLD:#} {path} in {}, without dlopen, and called it:\n", {
        print::milliseconds(loaded.time)
    })?;
    for call in calls {
        writeln!(out, "  {call}")?;
    }
    load::write_stages(out, &loaded.stages)?;
    if let Some((plan, regions)) = &loaded.memory {
        write_memory(out, plan, regions, second)?;
    }
    writeln!(out, "\nUnloaded again. Next: `soload load libz.so.1`, `soload inspect FILE`, `soload call --help`.")
}

fn write_memory(out: &mut impl Write, plan: &Plan, regions: &[Region], second: bool) -> io::Result<()> {
    let pages = (plan.span.end.0 - plan.span.start.0) / plan.page.bytes();
    let page = print::Size(plan.page.bytes());
    writeln!(
        out,
        "\n{BOLD}Plan{BOLD:#}: {} in {pages} pages of {page}\n",
        print::plural(plan.maps().len(), "mapping")
    )?;
    memory::write_plan(out, plan, regions)?;
    let who = if second { ", while a second process has loaded the same file" } else { "" };
    writeln!(out, "\n{BOLD}Pages{BOLD:#} afterwards{who}\n")?;
    memory::write_pages(out, regions)?;

    let count = |state: PageState| regions.iter().map(|region| region.count(state)).sum::<usize>();
    let of_file = count(PageState::Shared) + count(PageState::Exclusive);
    let copied = memory::copied_of_file(regions);
    let forecast: usize = regions.iter().filter_map(|region| region.forecast).sum();
    let verdict = match copied.cmp(&forecast) {
        Ordering::Equal => format!("{GOOD}as forecast{GOOD:#}"),
        Ordering::Greater => format!("{WARN}{} more than forecast{WARN:#}, by code that ran", copied - forecast),
        Ordering::Less => format!("{WARN}{} fewer than forecast{WARN:#}", forecast - copied),
    };
    let written = count(PageState::Copied) - copied;
    writeln!(
        out,
        "\n  {of_file:3} pages are the file's own, all code among them: every process that maps it shares them.\n  \
         {copied:3} were copied because loading wrote to them, {verdict}: each process has its own.\n  \
         {written:3} of the zeros {} been written by the code that was called.\n  \
         {:3} have not been touched: they cost addresses, no memory.",
        if written == 1 { "has" } else { "have" },
        count(PageState::Untouched),
    )
}

/// A second process that has the plugin loaded until this is dropped.
struct Companion {
    process: libc::pid_t,
    /// The process ends when this is closed.
    hold: Option<PipeWriter>,
}

impl Companion {
    /// `None` where no process can be made, or where it cannot load the plugin.
    fn start(plugin: &Path) -> Option<Self> {
        let (mut ready, is_ready) = io::pipe().ok()?;
        let (held, hold) = io::pipe().ok()?;
        // SAFETY: this process has one thread, so that the second one finds no lock held by another.
        let process = unsafe { libc::fork() };
        if process == 0 {
            drop((ready, hold));
            wait_with(plugin, is_ready, held);
            // Nothing of what the first process has prepared is done twice.
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        drop((is_ready, held));
        let second = (process > 0).then_some(Self { process, hold: Some(hold) })?;
        // Ends without a byte if the second process could not load it.
        ready.read_exact(&mut [0]).ok()?;
        Some(second)
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.hold.take();
        // SAFETY: our own child, which nobody else waits for.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), 0) };
    }
}

/// What the second process does: loads and calls the plugin, says so, and waits for the end of the first one.
fn wait_with(plugin: &Path, mut is_ready: PipeWriter, mut held: PipeReader) {
    // SAFETY: the plugin's constructor is sound.
    let library = unsafe { Library::new(plugin) };
    let Ok(library) = library else { return };
    if call_examples(&library).is_ok() && is_ready.write_all(&[1]).is_ok() {
        let _ = held.read(&mut [0]);
    }
}
