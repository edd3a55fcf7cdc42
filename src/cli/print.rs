//! What all subcommands print alike: errors, tables, sizes, and the names and bytes in JSON.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use soload::{Error, ErrorKind, Escaped};

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const NOTE: Style = AnsiColor::Cyan.on_default();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();

/// The styles above where they are wanted, and none where not.
#[derive(Clone, Copy, Default)]
pub(super) struct Inks {
    pub(super) bold: Style,
    pub(super) dim: Style,
    pub(super) good: Style,
    pub(super) bad: Style,
    pub(super) note: Style,
    pub(super) warn: Style,
}

/// Standard output for commands that write much, and the styles for it: nothing is to be removed from what goes into a
/// pipe, and lines are not written one by one.
pub(super) fn stdout() -> io::Result<(BufWriter<File>, Inks)> {
    let stdout = io::stdout();
    let inks = match anstream::AutoStream::choice(&stdout) {
        anstream::ColorChoice::Never => Inks::default(),
        _ => Inks { bold: BOLD, dim: DIM, good: GOOD, bad: BAD, note: NOTE, warn: WARN },
    };
    let file = File::from(stdout.as_fd().try_clone_to_owned()?);
    Ok((BufWriter::with_capacity(1 << 16, file), inks))
}

/// Places shown of those where a library was looked for, and symbols of those that are undefined.
const LIST_MAX: usize = 12;

/// Says on standard error what went wrong. If even that fails, there is nobody to tell.
pub(super) fn complain(what: impl Display) {
    let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {what}");
}

/// The error in one line, then who needed the object, what was tried, and what to do.
pub(super) fn complain_of(error: &Error) {
    complain(error);
    let _ = write_details(&mut anstream::stderr().lock(), error);
}

fn write_details(err: &mut impl Write, error: &Error) -> io::Result<()> {
    if let Some(user) = error.needed_by() {
        writeln!(err, "  needed by {}", path(user))?;
    }
    match error.kind() {
        ErrorKind::NotFound { tried } => write_list(err, "looked at, in this order:", tried, |place| {
            format!("{} ({}): {}", path(&place.path), Escaped(place.rule.as_bytes()), Escaped(place.reason.as_bytes()))
        })?,
        ErrorKind::UndefinedSymbols { symbols, .. } if symbols.len() > 1 => {
            write_list(err, "undefined:", symbols, ToString::to_string)?;
        }
        _ => {}
    }
    if let Some(help) = help(error) {
        writeln!(err, "  {NOTE}help:{NOTE:#} {help}")?;
    }
    Ok(())
}

fn write_list<T>(err: &mut impl Write, title: &str, list: &[T], line: impl Fn(&T) -> String) -> io::Result<()> {
    writeln!(err, "  {title}")?;
    for item in list.iter().take(LIST_MAX) {
        writeln!(err, "    {}", line(item))?;
    }
    match list.len().saturating_sub(LIST_MAX) {
        0 => Ok(()),
        more => writeln!(err, "    and {more} more"),
    }
}

/// What to do about an error, in the words of this command.
pub(super) fn help(error: &Error) -> Option<String> {
    let help = error.help()?;
    let words = [
        ("OpenOptions::allow_writable_executable", "--allow-wx"),
        ("OpenOptions::allow_executable_stack", "--allow-exec-stack"),
        ("OpenOptions::search_dir", "--search-dir"),
        ("open that first with OpenOptions::global", "preload that (LD_PRELOAD)"),
    ];
    Some(words.iter().fold(help, |help, (of_library, of_command)| help.replace(of_library, of_command)))
}

/// A path as text without control characters.
pub(super) fn path(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

/// A table without lines; its cells may have styles, which the stream removes where nobody wants them.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().enforce_styling().style_text_only();
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(comfy_table::Attribute::Dim)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Sets the columns whose cells stand at the right.
pub(super) fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The lines of a table, indented.
pub(super) fn write_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "  {}", line.trim_end())?;
    }
    Ok(())
}

/// A number of bytes, as people write it: exact in KiB or MiB where it is, else rounded.
pub(super) struct Size(pub(super) u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 10 => write!(f, "{bytes} bytes"),
            bytes if bytes < 1 << 20 && bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes if bytes < 1 << 20 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{:.1} MiB", bytes as f64 / 1_048_576.0),
        }
    }
}

/// A duration in milliseconds with three decimals.
pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

/// `count` things, by their name for one.
pub(super) fn plural(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Sets `key` to `bytes` as text; if they are not UTF-8, as lossy text, and `key_bytes` to them in hexadecimal.
pub(super) fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_bytes"), hex(bytes).into());
    }
}

/// As [`put_bytes`], for a path.
pub(super) fn put_path(object: &mut Map<String, Value>, key: &str, path: &Path) {
    put_bytes(object, key, path.as_os_str().as_encoded_bytes());
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error in JSON: `kind` is the name of the [`ErrorKind`], `message` the one line.
pub(super) fn json_of_error(error: &Error) -> Value {
    // The name of a variant is what its derived `Debug` begins with.
    let debug = format!("{:?}", error.kind());
    let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut object = Map::new();
    put_path(&mut object, "object", error.object());
    if let Some(user) = error.needed_by() {
        put_path(&mut object, "needed_by", user);
    }
    object.insert("kind".into(), kind.into());
    object.insert("message".into(), error.to_string().into());
    object.insert("help".into(), json!(help(error)));
    object.into()
}

/// The entry of a JSON document for a library that there is nothing else to say of; without JSON a complaint, after what
/// has been written so far.
pub(super) fn refusal(name: &OsStr, error: &Error, as_json: bool, out: &mut impl Write) -> io::Result<Option<Value>> {
    if !as_json {
        out.flush()?;
        complain_of(error);
        return Ok(None);
    }
    let mut object = Map::new();
    put_path(&mut object, "name", name.as_ref());
    object.insert("error".into(), json_of_error(error));
    Ok(Some(object.into()))
}

/// One JSON document on one line.
pub(super) fn write_json(out: &mut impl Write, document: &Value) -> io::Result<()> {
    let text = document.to_string();
    // JSON lets these stand in a string as they are; a terminal takes some of them for commands.
    let is_command = |c: char| matches!(c, '\x7f'..='\u{9f}');
    if !text.contains(is_command) {
        return writeln!(out, "{text}");
    }
    for c in text.chars() {
        match is_command(c) {
            true => write!(out, "\\u{:04x}", u32::from(c))?,
            false => write!(out, "{c}")?,
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_where_they_can_be() {
        let texts = [0, 1023, 4096, 4097, 1 << 20, (1 << 20) + 1].map(|bytes| Size(bytes).to_string());
        assert_eq!(texts, ["0 bytes", "1023 bytes", "4 KiB", "4.0 KiB", "1 MiB", "1.0 MiB"]);
    }

    #[test]
    fn bytes_that_are_not_text_come_along_in_hexadecimal() {
        let mut object = Map::new();
        put_bytes(&mut object, "path", b"lib\xff");
        put_bytes(&mut object, "name", b"lib");
        let expected = json!({"path": "lib\u{fffd}", "path_bytes": "6c6962ff", "name": "lib"});
        assert_eq!(Value::from(object), expected);
    }
}
