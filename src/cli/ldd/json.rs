//! The answer for one file in JSON, on one line; `schema` grows when a field changes its meaning.
//!
//! | field | meaning |
//! |---|---|
//! | `schema`, `file` | 1; the file that was asked about |
//! | `error` | why it cannot be inspected; then nothing else is there |
//! | `complete`, `static`, `set_user_id` | whether all is found; whether it needs nothing; whether it drops the environment |
//! | `libc` | by whose rules: `glibc`, `musl`, `bionic` |
//! | `interpreter` | `path` of the program that runs it, `error` if that cannot; null if it names none |
//! | `objects` | in load order: `name` asked for, `path` (null: missing), `role`, `soname`, `rule`, `loaded_by`, `needs`, `lost`, `fatal` |
//! | `objects[].role` | `root`, `needed`, `loader`, `preloaded` (with `preloaded_by`), `filter`, `auxiliary`, `present` in the program that opens the file |
//! | `objects[].hint`, `objects[].may_open` | what to do about it if it is missing; its `.note.dlopen` |
//! | `objects[].rule` | `name` (`path`, `rpath`, `ld_library_path`, `runpath`, `cache`, `default`), `of`, `item`, `level` |
//! | `objects[].needs` | `name` as written, `object` it means, `via` (`search`, `name` that is known, `file` that is known), `tag` (`filter`, `auxiliary`) if it is no plain need |
//! | `objects[].lost` | `path`, `rule`, `reason` of each place where it was not |
//! | `version_problems` | `user`, `provider`, `version`, `unversioned` provider, whether it is `fatal` |
//! | `auditors` | `name`, `by` (`LD_AUDIT`, `DT_AUDIT`, `DT_DEPAUDIT`), `path` or `error`: what the loader would run first |
//! | `duplicates` | with `--duplicates`: `symbol`, `version`, `objects` that define it (the first wins), those `interposed` upon, whether all are `weak` |
//! | `preload_problems` | errors of what was to be preloaded and is ignored |
//! | `undefined`, `unused` | with `-r`, `-d`, `-u`: `user`, `symbol`, `version`, `expected_in`, `weak`; objects nobody refers to |
//!
//! With `--reverse` there is a line only for files that need the library: `schema`, `file`, `reverse` (the library),
//! `direct`, and the objects `through` which.
//!
//! Objects are named by their index in `objects`. Text that is not UTF-8 has beside it `…_bytes`, in hexadecimal.

use std::path::Path;

use serde_json::{Map, Value, json};
use soload::{Candidate, Closure, Error, ErrorKind, Escaped, Libc, Need, Rivals, Role, Rule, Tag, Unresolved, Via};

use super::Answer;

use crate::cli::print::{json_of_error, put_bytes, put_path};

/// The number of this layout.
pub(super) const SCHEMA: u32 = 1;

pub(super) fn of(path: &Path, answer: &Answer) -> Value {
    let Answer { closure, bindings, rivals } = answer;
    let mut document = begin(path);
    document.insert("complete".into(), closure.is_complete().into());
    document.insert("static".into(), closure.is_static().into());
    document.insert("libc".into(), libc(closure.libc).into());
    document.insert("set_user_id".into(), closure.set_user_id.into());
    let interpreter = closure.interpreter.as_ref().map(|(path, error)| {
        let mut object = Map::new();
        put_path(&mut object, "path", path);
        object.insert("error".into(), json!(error.as_ref().map(ToString::to_string)));
        object
    });
    document.insert("interpreter".into(), json!(interpreter));
    let objects: Vec<Value> = (0..closure.objects.len()).map(|index| object(closure, index)).collect();
    document.insert("objects".into(), objects.into());
    let versions = closure.version_problems.iter().map(|problem| {
        let mut object = Map::new();
        put_bytes(&mut object, "version", &problem.version);
        object.insert("user".into(), problem.user.into());
        object.insert("provider".into(), problem.provider.into());
        object.insert("unversioned".into(), problem.unversioned.into());
        object.insert("fatal".into(), problem.fatal.into());
        object.into()
    });
    document.insert("version_problems".into(), versions.collect::<Vec<Value>>().into());
    let preload: Vec<Value> = closure.preload_problems.iter().map(json_of_error).collect();
    document.insert("preload_problems".into(), preload.into());
    let auditors = closure.auditors.iter().map(|auditor| {
        let mut object = Map::new();
        put_bytes(&mut object, "name", &auditor.name);
        object.insert("by".into(), auditor.by.into());
        match &auditor.place {
            Ok(path) => put_path(&mut object, "path", path),
            Err(error) => drop(object.insert("error".into(), error.to_string().into())),
        }
        object.into()
    });
    document.insert("auditors".into(), auditors.collect::<Vec<Value>>().into());
    if let Some(rivals) = rivals {
        document.insert("duplicates".into(), rivals.iter().map(duplicate).collect::<Vec<Value>>().into());
    }
    if let Some(bindings) = bindings {
        let undefined: Vec<Value> = bindings.undefined.iter().map(unresolved).collect();
        document.insert("undefined".into(), undefined.into());
        document.insert("unused".into(), json!(bindings.unused));
    }
    document.into()
}

fn unresolved(of: &Unresolved) -> Value {
    let mut object = Map::new();
    object.insert("user".into(), of.user.into());
    put_bytes(&mut object, "symbol", &of.symbol);
    if let Some(version) = &of.version {
        put_bytes(&mut object, "version", version);
    }
    if let Some(library) = &of.expected_in {
        put_bytes(&mut object, "expected_in", library);
    }
    object.insert("weak".into(), of.weak.into());
    object.into()
}

pub(super) fn of_error(error: &Error) -> Value {
    let mut document = begin(error.object());
    document.insert("error".into(), json_of_error(error));
    document.into()
}

fn begin(path: &Path) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("schema".into(), SCHEMA.into());
    put_path(&mut document, "file", path);
    document
}

fn object(closure: &Closure, index: usize) -> Value {
    let of = &closure.objects[index];
    let mut object = Map::new();
    put_bytes(&mut object, "name", &of.name);
    match &of.path {
        Some(path) => put_path(&mut object, "path", path),
        None => drop(object.insert("path".into(), Value::Null)),
    }
    let (role, by) = match of.role {
        Role::Root => ("root", None),
        Role::Preloaded { by } => ("preloaded", Some(by)),
        Role::Loader => ("loader", None),
        Role::Present => ("present", None),
        Role::Filtee { auxiliary: false } => ("filter", None),
        Role::Filtee { auxiliary: true } => ("auxiliary", None),
        _ => ("needed", None),
    };
    object.insert("role".into(), role.into());
    if let Some(by) = by {
        object.insert("preloaded_by".into(), by.into());
    }
    if let Some(soname) = of.soname() {
        put_bytes(&mut object, "soname", soname);
    }
    object.insert("rule".into(), json!(of.rule.as_ref().map(rule)));
    object.insert("loaded_by".into(), json!(of.loaded_by));
    object.insert("needs".into(), of.needs.iter().map(need).collect::<Vec<_>>().into());
    object.insert("lost".into(), of.lost.iter().map(candidate).collect::<Vec<_>>().into());
    object.insert("fatal".into(), json!(of.fatal.as_ref().map(ErrorKind::to_string)));
    if let Some(hint) = closure.hint(index) {
        object.insert("hint".into(), hint.into());
    }
    // The notes are JSON themselves; one that is not stays a text.
    let notes =
        of.may_open().map(|text| serde_json::from_slice(text).unwrap_or_else(|_| String::from_utf8_lossy(text).into()));
    let notes: Vec<Value> = notes.collect();
    if !notes.is_empty() {
        object.insert("may_open".into(), notes.into());
    }
    object.into()
}

fn need(of: &Need) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "name", &of.name);
    object.insert("object".into(), of.object.into());
    let via = match of.via {
        Via::Name => "name",
        Via::File => "file",
        _ => "search",
    };
    object.insert("via".into(), via.into());
    match of.tag {
        Tag::Filter => drop(object.insert("tag".into(), "filter".into())),
        Tag::Auxiliary => drop(object.insert("tag".into(), "auxiliary".into())),
        _ => {}
    }
    object.into()
}

fn duplicate(of: &Rivals) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "symbol", &of.symbol);
    if let Some(version) = &of.version {
        put_bytes(&mut object, "version", version);
    }
    object.insert("objects".into(), json!(of.objects));
    object.insert("interposed".into(), json!(of.interposed));
    object.insert("weak".into(), of.weak.into());
    object.into()
}

fn libc(of: Libc) -> &'static str {
    match of {
        Libc::Musl => "musl",
        Libc::Bionic => "bionic",
        _ => "glibc",
    }
}

fn candidate(of: &Candidate) -> Value {
    let mut object = Map::new();
    put_path(&mut object, "path", &of.path);
    object.insert("rule".into(), of.rule.as_str().into());
    object.insert("reason".into(), of.reason.as_str().into());
    object.into()
}

/// A rule by name, with the object whose search path it is and the item of it, as written.
fn rule(of: &Rule) -> Value {
    let mut object = Map::new();
    let (name, owner, item, level) = match of {
        Rule::AsGiven => ("path", None, None, None),
        Rule::SearchDir => ("search_dir", None, None, None),
        Rule::Rpath { of, item } => ("rpath", Some(of), Some(item), None),
        Rule::LibraryPath { item } => ("ld_library_path", None, Some(item), None),
        Rule::Runpath { of, item } => ("runpath", Some(of), Some(item), None),
        Rule::Cache { level } => ("cache", None, None, level.as_ref()),
        Rule::Default => ("default", None, None, None),
        other => return Escaped(other.to_string().as_bytes()).to_string().into(),
    };
    object.insert("name".into(), name.into());
    if let Some(owner) = owner {
        put_path(&mut object, "of", owner);
    }
    if let Some(item) = item {
        object.insert("item".into(), item.as_str().into());
    }
    if let Some(level) = level {
        object.insert("level".into(), level.as_str().into());
    }
    object.into()
}
