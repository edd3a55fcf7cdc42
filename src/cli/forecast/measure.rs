//! What a library's pages are right after loading, measured in this process: the half of `soload forecast --check` that
//! runs in a process of its own.
//!
//! JSON: `{"command": "measure", "schema": 1, "ok", "error", "objects": […]}`, for each object that was loaded `path`,
//! `forecast` and `measured` (pages of the file that became private), `missed` (measured, not forecast) and `extra`
//! (forecast, not measured): page addresses.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use soload::{Bias, Forecast, Image, PageSize, Plan, SnapshotUse, Vaddr};

use crate::cli::{Loading, Outcome, Status, memory, print};

pub(super) fn run(libraries: &[OsString], loading: &Loading, out: &mut impl Write) -> Outcome {
    let Some(name) = libraries.first() else { return Ok(Status::Usage) };
    let document = match by_soload(name, loading) {
        Ok(objects) => json!({"command": "measure", "schema": 1, "ok": true, "objects": objects}),
        Err(error) => json!({"command": "measure", "schema": 1, "ok": false, "error": error}),
    };
    print::write_json(out, &document)?;
    out.flush()?;
    // Neither destructors nor threads of the library get to spoil the answer.
    std::process::exit(0)
}

/// An object's file, and its private pages or why they could not be told.
type Measured = (PathBuf, Result<BTreeSet<Vaddr>, String>);

/// The pages of every object of the group, before any constructor has run.
fn by_soload(name: &OsString, loading: &Loading) -> Result<Vec<Value>, String> {
    let seen: Arc<Mutex<Vec<Measured>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let mut options = loading.options();
    let snapshot = loading.snapshots.as_ref().map(|_| options.create_snapshot(name)).transpose();
    let snapshot = snapshot.map_err(|error| error.to_string())?;
    if let Some(snapshot) = &snapshot {
        options.snapshot(snapshot);
    }
    options.before_constructors(move |path, bias| {
        if let Ok(mut notes) = notes.lock() {
            notes.push((path.to_owned(), copied(path, bias)));
        }
    });
    // SAFETY: whoever names a library on the command line vouches for its code.
    let library = unsafe { options.open(name) }.map_err(|error| error.to_string())?;
    if let SnapshotUse::Refused(refusal) = library.snapshot() {
        return Err(refusal.to_string());
    }
    // A constructor that fails has been measured all the same; what was not relocated has not.
    std::mem::forget(library);
    let seen = std::mem::take(&mut *seen.lock().map_err(|error| error.to_string())?);
    let compared = seen.into_iter().map(|(path, pages)| {
        let forecast = match &snapshot {
            None => forecast(&path)?,
            Some(snapshot) => {
                let remaining = snapshot.remaining(&path).ok_or("the snapshot has no pages of it")?;
                remaining.written.into_keys().collect()
            }
        };
        Ok(compare(&path, &pages?, &forecast))
    });
    compared.collect()
}

/// The pages of the file that are private to this process now.
fn copied(path: &Path, bias: Bias) -> Result<BTreeSet<Vaddr>, String> {
    memory::copied_pages(path, bias, |map| map.file.is_some())
}

/// The pages that loading makes private, as the file says.
pub(super) fn forecast(path: &Path) -> Result<BTreeSet<Vaddr>, String> {
    let told = Image::open(path).and_then(|image| {
        let plan = Plan::of(&image, PageSize::native())?;
        Forecast::of(&image, &plan)
    });
    told.map(|told| told.pages.into_keys().collect()).map_err(|error| error.to_string())
}

/// What of it was forecast, and what not.
pub(super) fn compare(path: &Path, measured: &BTreeSet<Vaddr>, forecast: &BTreeSet<Vaddr>) -> Value {
    let difference = |a: &BTreeSet<Vaddr>, b| a.difference(b).map(|page| page.0).collect::<Vec<_>>();
    json!({
        "path": path.to_string_lossy(),
        "forecast": forecast.len(),
        "measured": measured.len(),
        "missed": difference(measured, forecast),
        "extra": difference(forecast, measured),
    })
}
