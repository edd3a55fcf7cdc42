//! The text of glibc's `ldd`, byte for byte but for addresses: nothing was mapped, so all of them are zero.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use soload::{Closure, Escaped, Libc, Object, Role, Tag};

/// What stands for the address of an object.
const NOWHERE: &str = "(0x0000000000000000)";

/// The line before the answer for one of several files.
pub(super) fn write_header(out: &mut impl Write, path: &Path) -> io::Result<()> {
    writeln!(out, "{}:", shown(path))
}

pub(super) fn write(
    out: &mut impl Write,
    path: &Path,
    closure: &Closure,
    several: bool,
    unused: bool,
) -> io::Result<()> {
    if several {
        write_header(out, path)?;
    }
    if !closure.is_dynamic() {
        out.flush()?;
        let _ = writeln!(io::stderr(), "\tnot a dynamic executable");
        return Ok(());
    }
    if closure.is_static() && unused {
        return Ok(());
    }
    if closure.is_static() {
        return writeln!(out, "\tstatically linked");
    }
    let name_of = |index: usize| match &closure.objects[index].path {
        // ldd puts `./` before a name without slash.
        Some(path) if index == 0 && !path.as_os_str().as_bytes().contains(&b'/') => format!("./{}", shown(path)),
        Some(path) => shown(path).to_string(),
        None => Escaped(&closure.objects[index].name).to_string(),
    };
    let program = name_of(0);
    for problem in &closure.version_problems {
        let (provider, user) = (name_of(problem.provider), name_of(problem.user));
        let version = Escaped(&problem.version);
        let what = match (problem.unversioned, problem.fatal) {
            (true, _) => "no version information available".into(),
            (_, true) => format!("version `{version}' not found"),
            _ => format!("weak version `{version}' not found"),
        };
        writeln!(out, "{program}: {provider}: {what} (required by {user})")?;
    }
    if unused {
        return Ok(()); // it lists nothing else then
    }
    // The kernel's object stands behind the file itself, and so does a loader that nothing is found before.
    let (loader, rest) = closure.objects[1..]
        .split_at(usize::from(closure.objects.get(1).is_some_and(|object| object.role == Role::Loader)));
    write_objects(out, loader)?;
    // musl tells nothing of the kernel's.
    if closure.is_native() && closure.libc == Libc::Glibc {
        writeln!(out, "\tlinux-vdso.so.1 {NOWHERE}")?;
    }
    // Its list begins behind the file itself, and what stands in for that is before it.
    let stands_in = |index| closure.objects[0].needs.iter().any(|need| need.object == index && need.tag != Tag::Needed);
    let before = (1 + loader.len()..closure.objects.len()).take_while(|index| stands_in(*index)).count();
    write_objects(out, &rest[before..])
}

fn write_objects(out: &mut impl Write, objects: &[Object]) -> io::Result<()> {
    for object in objects.iter().filter(|object| object.role != Role::Present) {
        let name = Escaped(&object.name);
        match &object.path {
            None => writeln!(out, "\t{name} => not found")?,
            Some(path) if path.as_os_str().as_bytes() == object.name => {
                writeln!(out, "\t{} {NOWHERE}", shown(path))?;
            }
            Some(path) => writeln!(out, "\t{name} => {} {NOWHERE}", shown(path))?,
        }
    }
    Ok(())
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_bytes())
}
