//! Many libraries, each tried in a process of its own, on all cores, with a progress line on a terminal.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::print;

/// Where the system has its libraries: by machine on Debian and its kin.
pub(super) fn usual_directory() -> PathBuf {
    let by_machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let candidates = [by_machine.as_str(), "/usr/lib64", "/usr/lib"].map(Path::new);
    candidates.into_iter().find(|directory| directory.is_dir()).unwrap_or(candidates[0]).into()
}

/// The libraries that a place stands for. Each file is taken once, by the path without symbolic links.
pub(super) fn collect(
    place: &Path,
    recursive: bool,
    libraries: &mut std::collections::BTreeSet<PathBuf>,
) -> io::Result<()> {
    // A name without a slash is for the loaders to find.
    let has_slash = place.as_os_str().as_encoded_bytes().contains(&b'/');
    if !has_slash && !place.exists() {
        libraries.insert(place.into());
        return Ok(());
    }
    if !place.metadata()?.is_dir() {
        libraries.insert(if has_slash { place.into() } else { Path::new(".").join(place) });
        return Ok(());
    }
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        let path = entry.path();
        // Symbolic links to directories are not followed: what they lead to may lead back.
        if recursive && entry.file_type()?.is_dir() {
            collect(&path, recursive, libraries)?;
        }
        let name = entry.file_name();
        let named = name.as_encoded_bytes().windows(3).any(|part| part == b".so");
        if named && path.is_file() {
            libraries.extend(path.canonicalize());
        }
    }
    Ok(())
}

/// Does `one` with every library, on all cores; the answers are in the order of the libraries.
pub(super) fn each<T: Send>(
    libraries: &[PathBuf],
    one: impl Fn(&Path) -> io::Result<T> + Sync,
) -> io::Result<Vec<(PathBuf, T)>> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::with_capacity(libraries.len()));
    let failure = Mutex::new(None);
    let progress = io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(|| {
                while let Some(library) = libraries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match one(library) {
                        Ok(answer) => {
                            let mut answers = lock(&answers);
                            answers.push((library.clone(), answer));
                            if progress {
                                let _ = write!(io::stderr(), "\r{} of {} ", answers.len(), libraries.len());
                            }
                        }
                        Err(error) => *lock(&failure) = Some(error),
                    }
                }
            });
        }
    });
    if progress {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let mut answers = std::mem::take(&mut *lock(&answers));
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(answers)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs this command with `arguments`. Gives the document that begins with `start`, and how the process ended; an error
/// says how it died without one.
pub(super) fn document(
    command: &Path,
    arguments: impl IntoIterator<Item = OsString>,
    seconds: u64,
    start: &str,
) -> io::Result<Result<(Value, ExitStatus), String>> {
    // A file, not a pipe: whatever the library prints, its process never waits for us.
    let mut output = tempfile::tempfile()?;
    let mut process = Command::new(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let status = loop {
        match process.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            None => {
                process.kill()?;
                process.wait()?;
                return Ok(Err(format!("did not end within {}", print::plural(seconds as usize, "second"))));
            }
        }
    };
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
        return Ok(Err(format!("crashed: {name}")));
    }
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    // The library's code may have printed something before, and again on its way out.
    let text = String::from_utf8_lossy(&bytes);
    let at = text.rfind(start).unwrap_or(text.len());
    let mut documents = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    Ok(match documents.next() {
        Some(Ok(document)) => Ok((document, status)),
        _ => Err(format!("ended without an answer: {status}")),
    })
}
