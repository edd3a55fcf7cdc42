//! `--reverse`: which files need a library, and through which others.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, json};
use soload::{Closure, Escaped, Object, Resolver};

use super::args::{Args, Format};
use super::text::name;
use crate::cli::print::{path, put_path, write_json};

/// One line, if the file needs the library; answers whether it does.
pub(super) fn write(
    out: &mut impl Write,
    file: &Path,
    closure: &Closure,
    library: &OsStr,
    resolver: &Resolver,
    args: &Args,
) -> io::Result<bool> {
    let meant: Vec<usize> =
        (1..closure.objects.len()).filter(|index| is_meant(&closure.objects[*index], library, resolver)).collect();
    let users = closure.objects.iter().enumerate();
    let users = users.filter(|(_, user)| user.needs.iter().any(|need| meant.contains(&need.object)));
    let users: Vec<usize> = users.map(|(index, _)| index).collect();
    if users.is_empty() {
        return Ok(false);
    }
    let through: Vec<String> =
        users.iter().filter(|user| **user != 0).map(|user| name(&closure.objects[*user])).collect();
    if *args.format() == Format::Json {
        let mut document = Map::new();
        document.insert("schema".into(), super::json::SCHEMA.into());
        put_path(&mut document, "file", file);
        put_path(&mut document, "reverse", Path::new(library));
        document.insert("direct".into(), users.contains(&0).into());
        document.insert("through".into(), json!(through));
        write_json(out, &document.into())?;
        return Ok(true);
    }
    let itself = if users.contains(&0) { " itself" } else { "" };
    let library = Escaped(library.as_encoded_bytes());
    match through.is_empty() {
        true => writeln!(out, "{} needs {library}{itself}", path(file))?,
        false => {
            let and = if itself.is_empty() { "" } else { " and" };
            writeln!(out, "{} needs {library}{itself}{and} through {}", path(file), through.join(", "))?;
        }
    }
    Ok(true)
}

/// A path means that file, by whatever name; a name, the name asked for, the soname or the file's own.
fn is_meant(object: &Object, library: &OsStr, resolver: &Resolver) -> bool {
    let bytes = library.as_encoded_bytes();
    let place = object.path.as_deref();
    match bytes.contains(&b'/') {
        true => place.is_some_and(|place| {
            let wanted = resolver.place(Path::new(library));
            place == Path::new(library)
                || std::fs::canonicalize(resolver.place(place)).ok() == std::fs::canonicalize(wanted).ok()
        }),
        false => {
            object.name == bytes
                || object.soname() == Some(bytes)
                || place.and_then(Path::file_name).is_some_and(|name| name == library)
        }
    }
}
