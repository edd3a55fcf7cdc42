//! The answer for one file in JSON, on one line; `schema` grows when a field changes its meaning.
//!
//! | field | meaning |
//! |---|---|
//! | `schema`, `file` | 1; the file that was asked about |
//! | `error` | why it cannot be inspected; then nothing else is there |
//! | `complete`, `static`, `set_user_id` | whether all is found; whether it needs nothing; whether it drops the environment |
//! | `interpreter` | `path` of the program that runs it, `error` if that cannot; null if it names none |
//! | `objects` | in load order: `name` asked for, `path` (null: missing), `role`, `soname`, `rule`, `loaded_by`, `needs`, `lost`, `fatal` |
//! | `objects[].rule` | `name` (`path`, `rpath`, `ld_library_path`, `runpath`, `cache`, `default`), `of`, `item`, `level` |
//! | `objects[].needs` | `name` as written, `object` it means, `via` (`search`, `name` that is known, `file` that is known) |
//! | `objects[].lost` | `path`, `rule`, `reason` of each place where it was not |
//! | `version_problems` | `user`, `provider`, `version`, `unversioned` provider, whether it is `fatal` |
//! | `preload_problems` | errors of what was to be preloaded and is ignored |
//! | `undefined`, `unused` | with `-r`, `-d`, `-u`: `user`, `symbol`, `version`, `expected_in`, `weak`; objects nobody refers to |
//!
//! Objects are named by their index in `objects`. Text that is not UTF-8 has beside it `…_bytes`, in hexadecimal.

use std::path::Path;

use serde_json::{Map, Value, json};
use soload::{Bindings, Candidate, Closure, Error, ErrorKind, Escaped, Need, Object, Role, Rule, Unresolved, Via};

use crate::cli::print::{json_of_error, put_bytes, put_path};

/// The number of this layout.
const SCHEMA: u32 = 1;

pub(super) fn of(path: &Path, closure: &Closure, bindings: Option<&Bindings>) -> Value {
    let mut document = begin(path);
    document.insert("complete".into(), closure.is_complete().into());
    document.insert("static".into(), closure.is_static().into());
    document.insert("set_user_id".into(), closure.set_user_id.into());
    let interpreter = closure.interpreter.as_ref().map(|(path, error)| {
        let mut object = Map::new();
        put_path(&mut object, "path", path);
        object.insert("error".into(), json!(error.as_ref().map(ToString::to_string)));
        object
    });
    document.insert("interpreter".into(), json!(interpreter));
    let objects: Vec<Value> = closure.objects.iter().map(object).collect();
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

fn object(of: &Object) -> Value {
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
    object.into()
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
