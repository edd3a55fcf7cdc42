//! One line for each object, in words of one's own: `--format '%n %p'`.

use std::io::{self, Write};

use soload::{Closure, Escaped, Object, Role};

use super::text::{depths, name};

/// A line for every object that the file brings in, to a depth, in load order.
pub(super) fn write(out: &mut impl Write, format: &str, closure: &Closure, depth: usize) -> io::Result<()> {
    let shown = depths(closure);
    for (index, object) in closure.objects.iter().enumerate().skip(1) {
        if shown[index].is_some_and(|level| level <= depth) {
            write_line(out, format, closure, object)?;
        }
    }
    Ok(())
}

fn write_line(out: &mut impl Write, format: &str, closure: &Closure, object: &Object) -> io::Result<()> {
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        let after = if matches!(c, '%' | '\\') { rest.next() } else { None };
        match (c, after) {
            ('%', Some('n')) => write!(out, "{}", Escaped(&object.name))?,
            ('%', Some('p')) => match &object.path {
                Some(path) => write!(out, "{}", Escaped(path.as_os_str().as_encoded_bytes()))?,
                None => write!(out, "not found")?,
            },
            ('%', Some('w')) => write!(out, "{}", why(object))?,
            ('%', Some('s')) => write!(out, "{}", Escaped(object.soname().unwrap_or_default()))?,
            ('%', Some('u')) => {
                write!(out, "{}", object.loaded_by.map_or(String::new(), |user| name(&closure.objects[user])))?;
            }
            ('%', Some('f')) => write!(out, "{}", name(&closure.objects[0]))?,
            ('%', Some('%')) => write!(out, "%")?,
            ('\\', Some('n')) => writeln!(out)?,
            ('\\', Some('t')) => write!(out, "\t")?,
            ('\\', Some('0')) => out.write_all(&[0])?,
            (c, after) => {
                write!(out, "{c}")?;
                after.map_or(Ok(()), |after| write!(out, "{after}"))?;
            }
        }
    }
    writeln!(out)
}

/// In a few words, why it is there.
pub(super) fn why(object: &Object) -> String {
    match (object.role, &object.rule) {
        (Role::Preloaded { by }, _) => by.into(),
        (Role::Loader, _) => "the loader itself".into(),
        (Role::Present, _) => "the program has it".into(),
        (Role::Filtee { auxiliary: false }, Some(rule)) => format!("filter; {rule}"),
        (Role::Filtee { auxiliary: true }, Some(rule)) => format!("auxiliary filter; {rule}"),
        (Role::Filtee { auxiliary: true }, None) => "auxiliary filter; done without".into(),
        (Role::Filtee { auxiliary: false }, None) => "filter".into(),
        (_, Some(rule)) => rule.to_string(),
        _ => String::new(),
    }
}
